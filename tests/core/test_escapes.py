"""Names of others do nothing to a terminal, a report or a spreadsheet."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup
from rich.text import Text

from ood_core.errors import OODError, OODErrors, OODWarning, warn
from ood_core.escapes import from_cell, printable, printable_lines, to_cell, to_markup

HOSTILE = {
    "\x1b[31mred": "\\x1b[31mred",
    "title\x1b]0;x\x07": "title\\x1b]0;x\\x07",
    "\x9b2J": "\\x9b2J",
    "a\nfake line\r": "a\\nfake line\\r",
    "\u202egnp.exe": "\\u202egnp.exe",
    "a\u2028b\x85c\x7f": "a\\u2028b\\x85c\\x7f",
    "\udcff.png": "\\udcff.png",
}
FORMULAS = [
    "=1+1",
    "+1",
    "-1",
    "@x",
    "\t=1",
    "\r=1",
    "\n=1",
    "'=1",
    "''+1",
    '=HYPERLINK("http://x")',
    "\uff1d1",
    "-cat",
]
TEXTS = ["", "'", "'tis", "cat", "a=b", " =1", "1-1", "mood/knn", "''"]


@pytest.mark.parametrize(("text", "shown"), HOSTILE.items())
def test_what_a_terminal_obeys_is_escaped(text, shown):
    assert printable(text) == shown
    assert printable(shown) == shown
    assert Text.from_markup(to_markup(f"[red]{text}")).plain == f"[red]{shown}"
    assert str(OODError(f"x: {text}")) == f"x: {shown}"
    with pytest.warns(OODWarning) as found:
        warn(text)
    assert str(found[0].message) == shown


def test_values_of_a_page_keep_lines_and_markup():
    assert printable_lines("a\x1b\nb") == "a\\x1b\nb"
    assert printable_lines(Markup("<b>\t</b>")) == "<b>\t</b>"
    assert printable_lines(1.5) == 1.5


def test_several_errors_have_a_line_each():
    assert str(OODErrors([OODError("a\nb"), OODError("c")])) == "a\\nb\nc"


@pytest.mark.parametrize(
    "text", ["", "cat", "Größe 3 µm", "क्\u200dष", "می\u200cخواهم", "👩\u200d🔬", "a\xa0b", "\\x1b"]
)
def test_writing_of_any_language_stays(text):
    assert printable(text) == text


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_gets_an_apostrophe_that_is_removed_again(text):
    assert to_cell(text) == f"'{text}"
    assert from_cell(to_cell(text)) == text


@pytest.mark.parametrize("text", TEXTS)
def test_other_texts_are_cells_as_they_are(text):
    assert to_cell(text) == text == from_cell(text)


@given(st.text(st.sampled_from("'=+-@\t\r\nab")))
def test_every_text_is_found_again(text):
    assert from_cell(to_cell(text)) == text
    target = io.StringIO(newline="")
    csv.writer(target).writerow([to_cell(text), "end"])
    ((cell, _),) = csv.reader(io.StringIO(target.getvalue(), newline=""))
    assert from_cell(cell) == text
    assert cell[:1] not in tuple("=+-@\t\r\n")
