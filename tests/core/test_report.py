"""The table as people read it."""

import pytest

from ood_core import report
from ood_core.errors import OODError
from ood_core.report.summary import columns, percent, summarise
from ood_core.run import ResultRow, run
from ood_core.store import Store


def row(auroc, seed=0, variant="v", accuracy=0.5):
    return ResultRow(variant, seed, "energy", "noise", "far", auroc, 0.1, 0.2, 0.3, accuracy)


def texts(lines):
    return {column.title: column.text(lines[0]) for column in columns(lines)}


def test_a_single_seed_is_shown_as_it_is_in_percent():
    assert texts(summarise([row(0.98765)])) == {
        "scorer": "energy",
        "OOD set": "noise",
        "group": "far",
        "AUROC": "98.77",
        "FPR@95": "10.00",
        "AUPR-In": "20.00",
        "AUPR-Out": "30.00",
        "ID acc.": "50.00",
    }


def test_seeds_become_mean_and_standard_deviation():
    (line,) = summarise([row(0.9, 0), row(0.8, 1), row(0.7, 2)])
    assert line.seeds == 3
    assert line.cells["auroc"].mean == pytest.approx(0.8)
    assert line.cells["auroc"].deviation == pytest.approx(0.1)
    assert str(line.cells["auroc"]) == "80.00 ± 10.00"


def test_a_number_that_cannot_be_had_is_a_dash():
    assert texts(summarise([row(0.9, accuracy=None)]))["ID acc."] == "-"
    assert percent(None) == "-"
    assert percent(0.12345) == "12.35"


def test_names_do_not_break_the_table(make_plan, tiny, tmp_path, capsys):
    name = "[/] | two\\nlines"
    plan = make_plan(tiny, f'data.near.0.name="{name}"', "training.0.epochs=1", "scorers=[energy]")
    store = Store(tmp_path / "store")
    results = run(plan, store)
    assert "[/] |" in capsys.readouterr().out
    report.write(plan, results, store, tmp_path / "out")
    assert "| energy | [/] \\| two lines | near |" in (tmp_path / "out" / "report.md").read_text()


def test_facts_that_are_not_finite_are_written_as_words(make_plan, tiny, tmp_path):
    plan = make_plan(tiny, "training.0.epochs=1", "scorers=[energy]")
    store = Store(tmp_path / "store")
    results = run(plan, store)
    results.records[0].facts["epochs"][0]["loss"] = float("inf")
    report.write(plan, results, store, tmp_path / "out")
    assert '"loss": "inf"' in (tmp_path / "out" / "report.json").read_text()


def test_a_folder_for_the_reports_that_holds_folders_is_refused(tmp_path):
    (tmp_path / "report.md").mkdir()
    with pytest.raises(OODError, match=r"--out .*: report\.md is a folder there"):
        report.prepare(tmp_path)


def test_variants_keep_their_order_and_get_a_column():
    lines = summarise([row(0.9, variant="b"), row(0.8, variant="a")])
    assert [line.variant for line in lines] == ["b", "a"]
    assert columns(lines)[0].title == "variant"
