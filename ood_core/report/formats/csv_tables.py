"""The tables as CSV, for spreadsheets and programs; rates are fractions in [0, 1], texts are never formulas."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

from ood_core.escapes import to_record
from ood_core.report.content.published import PublishedTable
from ood_core.report.content.summary_rows import TITLES, Line

NAMES = ("variant", "case", "scorer", "id_set", "ood_set", "group", "repeats")


def of_records(records: Sequence[Any], cls: Any) -> str:
    """Return records of one class, a line each, a column for each field."""
    names = [field.name for field in fields(cls)]
    return _text(names, ([getattr(record, name) for name in names] for record in records))


def of_summary(lines: Sequence[Line]) -> str:
    """Return the lines of the result table with their deviations, intervals and comparisons."""
    rates = [f"{name}{part}" for name in TITLES for part in ("", "_sd", "_low", "_high")]
    compared = ["difference", "difference_low", "difference_high", "p", "p_adjusted", "test", "baseline"]
    rows = []
    for line in lines:
        values: list[Any] = [getattr(line, name) for name in NAMES]
        for cell in line.cells.values():
            values += [None] * 4 if cell is None else [cell.mean, cell.deviation, *(cell.interval or (None, None))]
        if (of := line.comparison) is None:
            values += [None] * len(compared)
        else:
            values += [of.found.difference, of.found.low, of.found.high, of.found.p, of.adjusted, of.test, of.against]
        rows.append(values)
    return _text([*NAMES, *rates, *compared], rows)


def of_published(tables: Sequence[PublishedTable]) -> str:
    """Return the cells of published tables, a line each, ours in percent as theirs are."""
    names = ["ours", "deviation", "paper", "difference", "exposed", "paper_exposed", "instead"]
    lines = (
        [table.name, row.heading.text, column.text, *(getattr(cell, name) for name in names)]
        for table in tables
        for row in table.rows
        for column, cell in zip(table.columns, row.cells, strict=True)
    )
    return _text(["table", "row", "column", *names], lines)


def _text(names: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    return "".join(map(to_record, [names, *lines]))
