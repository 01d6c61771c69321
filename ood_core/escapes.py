"""Names and texts of others, made harmless for terminals, reports and spreadsheets."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from typing import Any

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal obeys, ends a line, turns the direction of writing, or is no character."""

_FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
"""The beginning of a cell that a spreadsheet computes, with apostrophes before it; the last four are full-width."""


def printable(text: str) -> str:
    r"""Return a text of one line, with escapes such as \x1b for control characters."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def printable_lines(value: Any) -> Any:
    """Return a text with its lines printable, markup and anything else as it is; for the values of an HTML page."""
    return "\n".join(map(printable, value.split("\n"))) if type(value) is str else value


def to_markup(text: str) -> str:
    """Return a text that rich prints as it is, on one line."""
    from rich.markup import escape  # slow

    return escape(printable(text))


def to_cell(text: str) -> str:
    """Return a text as a cell of CSV: with an apostrophe before it if a spreadsheet would take it for a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def from_cell(cell: str) -> str:
    """Return the text that `to_cell` made a cell of."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def to_record(values: Iterable[Any]) -> str:
    r"""Return a record of CSV (RFC 4180) with "\n" at its end, texts as cells, others as Python writes them."""
    text = io.StringIO(newline="")
    cells = [to_cell(value) if isinstance(value, str) else value for value in values]
    csv.writer(text, lineterminator="\r\n").writerow(cells)  # with "\n" it would leave a "\r" in a cell unquoted
    return text.getvalue()[:-2] + "\n"
