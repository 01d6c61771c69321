"""Tables on standard output."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console as Screen
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from ood_core.records.report_data import ReportData
    from ood_core.report.content.published import PublishedCell, PublishedTable
    from ood_core.report.formats.columns import Column


class Output(Screen):
    """Standard output, possibly closed: `ood-run mood | head` must not lose the report."""

    def on_broken_pipe(self) -> None:
        """Send the rest nowhere."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def tables(report: ReportData) -> Iterator[Table | str]:
    """Yield the tables of a report: over cases if there are several, else of all rates; then published ones."""
    from ood_core.report.content.published import tables as published  # above the plugins in the core's layers
    from ood_core.report.content.summary_rows import case_tables, summarise
    from ood_core.report.formats.columns import case_columns, columns, legend

    cases = case_tables(report.rows, "auroc", report.averaged, report.scores, report.baseline)
    for of_cases in cases:
        yield _table(case_columns(of_cases), of_cases, "AUROC in %")
        yield legend(of_cases, metric="auroc")
    if not cases:
        lines = summarise(report.rows, report.scores, report.baseline)
        yield _table(columns(lines), lines)
        yield legend(lines)
    for of in published(report):
        yield from _published(of)


def _table(columns: Sequence[Column], lines: Sequence[Any], title: str | None = None) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for column in columns:
        table.add_column(column.title, justify="right" if column.number else "left", overflow="fold")
    for line in lines:
        texts = ((escape(column.text(line)), column.best(line)) for column in columns)
        table.add_row(*(f"[bold]{text}[/]" if best else text for text, best in texts))
    return table


def _published(of: PublishedTable) -> Iterator[Table | str]:
    """Yield a published table with our numbers, in bold, before the paper's, and what stands below it."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=f"\n{escape(of.title)}", title_justify="left")
    table.add_column("ours / paper", overflow="fold")
    for column in of.columns:
        table.add_column(escape(column.text) + _notes(column.notes), justify="right", overflow="fold")
    for row in of.rows:
        table.add_row(escape(row.heading.text) + _notes(row.heading.notes), *map(_cell, row.cells))
    yield table
    yield from (f"({number}) {escape(note)}" for number, note in enumerate(of.footnotes, 1))
    yield escape(" ".join(of.legend))


def _cell(cell: PublishedCell) -> str:
    ours = f"[bold]{escape(cell.our_text)}[/] / " if cell.asked else ""
    return ours + escape(cell.paper_text) + _notes(cell.notes)


def _notes(numbers: Sequence[int]) -> str:
    return "".join(f" ({number})" for number in numbers)
