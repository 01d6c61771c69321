"""Names that others chose: no report, table or line of the console obeys them."""

import csv
import io
import re
from dataclasses import fields, is_dataclass, replace

import pytest
from rich.console import Console as Screen

from ood_console.hooks import Console
from ood_core import report
from ood_core.report.formats import page
from ood_core.report.formats.run_folder import load

CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]")
CHANGES = {
    "variant 0": "=cmd|' /C calc'!A0",
    "scorer0": "+\x1b[2Jscorer\r",
    "set 0": "@set | \n# heading\x1b]0;title\x07",
    "class 1": "-class\u202e1\n\n![x](http://x)",
    "known 1": "\tknown\x9b31m",
    "synthetic": "name\nof\x1b[31m it",
    "the loss is nan at step 3": "\x1b[1mfailed\n\n# heading",
    "A note with <angle> brackets & an ampersand": "note\n- another\x1b[31m",
}


def renamed(value):
    """Return a value with other names wherever they occur in it."""
    if isinstance(value, str):
        return CHANGES.get(value, value)
    if isinstance(value, tuple):
        return tuple(map(renamed, value))
    if is_dataclass(value):
        return replace(value, **{of.name: renamed(getattr(value, of.name)) for of in fields(value)})
    return value


@pytest.fixture(scope="module")
def folders(synthetic, tmp_path_factory):
    """The reports of the same findings with plain and with hostile names."""
    plain, hostile = tmp_path_factory.mktemp("plain"), tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "render", lambda *_: "")  # which nothing is compared with, and takes seconds
        report.write_files(synthetic(plain, variants=2, scorers=1, sets=1, images=20, galleries=1), plain)
    report.write_files(renamed(synthetic(hostile, variants=2, scorers=1, sets=1, images=20, galleries=1)), hostile)
    return plain, hostile


@pytest.mark.parametrize("name", ["report.md", "report.tex", "report.html"])
def test_no_control_character_is_in_a_report(folders, name):
    _, hostile = folders
    text = (hostile / name).read_text(encoding="utf-8")
    assert "x1b" in text
    assert not CONTROLS.search(text)


@pytest.mark.parametrize("name", ["report.md", "report.tex"])
def test_a_name_with_lines_breaks_no_table(folders, name):
    def shape(folder):
        """Return the beginning of each line, without the recipe, in which options are what they are."""
        text = (folder / name).read_text(encoding="utf-8")
        return [line.strip()[:1] for line in text.partition("## Recipe")[0].splitlines()]

    plain, hostile = map(shape, folders)
    assert len(plain) == len(hostile)
    assert [one for one in plain if one in "|#-"] == [one for one in hostile if one in "|#-"]
    assert "![x](http" not in (folders[1] / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["report.csv", "summary.csv", "classes.csv", "accepted.csv"])
def test_no_cell_is_a_formula_and_numbers_stay(folders, name):
    def numeric(text):
        return re.fullmatch(r"-?[\d.]+(e-?\d+)?|-?inf", text) is not None

    plain, hostile = (
        list(csv.reader(io.StringIO((of / name).read_text(encoding="utf-8"), newline=""))) for of in folders
    )
    for before, after in zip(plain, hostile, strict=True):
        for old, new in zip(before, after, strict=True):
            assert numeric(new) or new[:1] not in tuple("=+-@\t\r\n")
            assert not numeric(old) or new == old
    assert any(cell.startswith("'") for line in hostile for cell in line)


def test_what_is_read_again_has_the_names_it_had(folders, synthetic, tmp_path):
    _, hostile = folders
    found, made = load(hostile), renamed(synthetic(tmp_path, variants=2, scorers=1, sets=1, images=20, galleries=1))
    for name in ("name", "rows", "classes", "accepted", "notes", "failures"):
        assert getattr(found, name) == getattr(made, name)


def test_the_console_obeys_no_name(folders, monkeypatch, capsys):
    console, text = Console(), io.StringIO()
    monkeypatch.setattr(console, "_screen", Screen(file=text, width=200, force_terminal=False))
    console.ood_after_report(report=load(folders[1]))
    for shown in (text.getvalue(), capsys.readouterr().out):
        assert "\\x1b" in shown
        assert not CONTROLS.search(shown)
        assert not re.search(r"^(# heading|- another)", shown, re.MULTILINE)
