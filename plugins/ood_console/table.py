"""Tables on standard output, as wide as it: numbers are never broken."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console as Screen
from rich.table import Table
from rich.text import Text

from ood_core.escapes import to_markup

if TYPE_CHECKING:
    from ood_core.records.report_data import ReportData
    from ood_core.report.content.published import PublishedCell, PublishedTable
    from ood_core.report.formats.columns import Column

WIDE_NAMES, NARROW_NAMES = 32, 16
"""Characters beyond which a column of names is folded: before an optional column is left out, and before a further
table begins."""

GAP = 3
"""Characters between two columns."""


class Output(Screen):
    """Standard output, possibly closed: `ood-run mood | head` must not lose the report."""

    def on_broken_pipe(self) -> None:
        """Send the rest nowhere."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def tables(report: ReportData, width: int) -> Iterator[Table | str]:
    """Yield the tables of a report: over cases if there are several, else of all rates; then published ones.

    Where `width` characters do not suffice, AUPR is left out, and then columns go to a further table below.
    """
    from ood_core.report.content.published import tables as published  # above the plugins in the core's layers
    from ood_core.report.content.summary_rows import TITLES, case_tables, summarise
    from ood_core.report.formats.columns import case_columns, columns, legend

    cases = case_tables(report.rows, "auroc", report.averaged, report.scores, report.baseline)
    for of_cases in cases:
        yield from _table(case_columns(of_cases), of_cases, width, "AUROC in %")
        yield to_markup(legend(of_cases, metric="auroc"))
    if not cases:
        lines = summarise(report.rows, report.scores, report.baseline)
        yield from _table(columns(lines), lines, width, optional=[TITLES["aupr_in"], TITLES["aupr_out"]])
        yield to_markup(legend(lines))
    for of in published(report):
        yield from _published(of, width)


def _table(
    columns: Sequence[Column], lines: Sequence[Any], width: int, title: str = "", optional: Collection[str] = ()
) -> Iterator[Table | str]:
    cells = [
        [
            f"[bold]{to_markup(column.text(line))}[/]" if column.best(line) else to_markup(column.text(line))
            for line in lines
        ]
        for column in columns
    ]
    headings = [to_markup(column.title) for column in columns]
    return fit_width(headings, [column.number for column in columns], cells, width, title, optional)


def _published(of: PublishedTable, width: int) -> Iterator[Table | str]:
    """Yield a published table with our numbers, in bold, before the paper's, and what stands below it."""
    headings = ["ours / paper", *(to_markup(column.text) + _notes(column.notes) for column in of.columns)]
    names = [to_markup(row.heading.text) + _notes(row.heading.notes) for row in of.rows]
    cells = [names, *([_cell(row.cells[place]) for row in of.rows] for place in range(len(of.columns)))]
    numbers = [place > 0 for place in range(len(headings))]
    yield from fit_width(headings, numbers, cells, width, f"\n{to_markup(of.title)}")
    yield from (f"({number}) {to_markup(note)}" for number, note in enumerate(of.footnotes, 1))
    yield to_markup(" ".join(of.legend))


def _cell(cell: PublishedCell) -> str:
    ours = f"[bold]{to_markup(cell.our_text)}[/] / " if cell.asked else ""
    return ours + to_markup(cell.paper_text) + _notes(cell.notes)


def _notes(numbers: Sequence[int]) -> str:
    return "".join(f" ({number})" for number in numbers)


def fit_width(
    headings: Sequence[str],
    numbers: Sequence[bool],
    cells: Sequence[Sequence[str]],
    width: int,
    title: str = "",
    optional: Collection[str] = (),
) -> Iterator[Table | str]:
    """Yield a table that is at most `width` characters wide, or several with the same names in front of the numbers.

    Args:
        headings: Of each column, with rich's markup.
        numbers: Whether a column holds numbers, which are never folded.
        cells: The texts of each column.
        width: Characters of a line.
        title: Above each table.
        optional: Headings of columns to leave out, the last one first, before a further table begins; a line below
            names them.
    """
    widths = [
        max(Text.from_markup(text).cell_len for text in (heading, *column))
        for heading, column in zip(headings, cells, strict=True)
    ]

    def room(places: Sequence[int], most: int) -> int:
        return sum(widths[of] if numbers[of] else min(widths[of], most) for of in places) + GAP * len(places)

    shown = list(range(len(headings)))
    for place in [place for place in reversed(shown) if headings[place] in optional]:
        if room(shown, WIDE_NAMES) > width:
            shown.remove(place)
    names = [place for place in shown if not numbers[place]]
    blocks: list[list[int]] = [[]]
    for place in (place for place in shown if numbers[place]):
        if blocks[-1] and room([*names, *blocks[-1], place], NARROW_NAMES) > width:
            blocks.append([])
        blocks[-1].append(place)
    for block in blocks:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, title=title or None, title_justify="left")
        for place in names + block:
            number = numbers[place]
            table.add_column(headings[place], justify="right" if number else "left", overflow="fold", no_wrap=number)
        for row in zip(*(cells[place] for place in names + block), strict=True):
            table.add_row(*row)
        yield table
    if left_out := [headings[place] for place in range(len(headings)) if place not in shown]:
        yield f"Not shown here: {', '.join(left_out)}; the report has them."
