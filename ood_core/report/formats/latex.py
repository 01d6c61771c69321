"""report.tex: a table for each metric, with booktabs, to be input into a paper."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from jinja2 import Environment, PackageLoader

from ood_core.escapes import printable
from ood_core.records.report_data import ReportData
from ood_core.report.content import published
from ood_core.report.content.comparisons import BETTER, WORSE
from ood_core.report.content.summary_rows import (
    CASE_METRICS,
    TITLES,
    CaseLine,
    Cell,
    Line,
    case_tables,
    summarise,
)
from ood_core.report.formats.columns import legend

HIGH = 40
"""Lines of a table that fit on a page; longer ones are cut into several."""

WIDE = 7
"""Columns of numbers from which on a table is scaled to the width of the text."""

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "±": r"$\pm$", "†": r"\textsuperscript{\dag}", "×": r"$\times$",
    "·": r"$\cdot$", "→": r"$\to$", "≤": r"$\le$", "≥": r"$\ge$", "α": r"$\alpha$", "λ": r"$\lambda$",
    "§": r"\S{}", "≉": r"$\not\approx$", "–": "--", "…": r"\dots{}",
}  # fmt: skip
_MARKS = {BETTER: "*", WORSE: r"\dag"}
_TO_ESCAPE = re.compile("|".join(map(re.escape, _SPECIAL)))

Column = tuple[str, str]
Cells = dict[tuple[str, ...], dict[Column, Cell | None]]


@dataclass(frozen=True)
class Table:
    """A table, its texts escaped; the last columns are the numbers, with titles above that span some of them."""

    caption: str
    columns: Sequence[str]
    numbers: int
    groups: Sequence[tuple[str, int]]
    lines: Sequence[Sequence[str]]


def render(report: ReportData) -> str:
    """Return the tables; with several cases these are the columns, else the OOD sets with their means."""
    environment = Environment(
        loader=PackageLoader("ood_core.report"),
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made: list[Table] = []
    for metric in CASE_METRICS:
        of_cases = case_tables(report.rows, metric, report.averaged, report.scores, report.baseline)
        made += [_of_cases(lines, metric) for lines in of_cases]
        if not of_cases:
            made.append(_of_sets(summarise(report.rows, report.scores, report.baseline), metric))
    parts = []  # of tables, each fits on a page
    for table in (*made, *map(_published, published.tables(report))):
        for start in range(0, len(table.lines), HIGH):
            caption = f"{table.caption} (continued)" if start else table.caption
            parts.append(replace(table, caption=caption, lines=table.lines[start : start + HIGH]))
    name = printable(" ".join(report.name.split()))
    return environment.get_template("report.tex.j2").render(name=name, tables=parts, wide=WIDE)


def escape(text: str) -> str:
    """Return text that LaTeX prints as it is."""
    return _TO_ESCAPE.sub(lambda match: _SPECIAL[match[0]], printable(" ".join(text.split())))


def _of_sets(lines: Sequence[Line], metric: str) -> Table:
    """Return a table with a column for each OOD set and each mean over the sets of a group."""
    groups: dict[str, dict[str, None]] = {}
    cells: Cells = {}
    for line in lines:
        groups.setdefault(line.group, {})[line.ood_set] = None
        cells.setdefault((line.variant, line.id_set, line.scorer), {})[line.group, line.ood_set] = line.cells[metric]
    titles = {(group, name): name for group, names in groups.items() for name in names}
    table = _table(metric, legend(lines, metric=metric), ("variant", "ID set", "scorer"), cells, titles)
    spans = tuple((escape(group), len(names)) for group, names in groups.items())
    return replace(table, groups=spans) if len(groups) > 1 else table


def _of_cases(lines: Sequence[CaseLine], metric: str) -> Table:
    """Return a table with a column for each case and their mean."""
    cells: Cells = {}
    for line in lines:
        of_line = cells.setdefault((line.variant, line.ood_set, line.scorer), {})
        of_line |= {("case", case): cell for case, cell in line.cells.items()}
        of_line |= {} if line.mean is None else {("mean", ""): line.mean}
    titles = {column: column[1] or column[0] for of_line in cells.values() for column in of_line}
    return _table(metric, legend(lines), ("variant", "OOD set", "scorer"), cells, titles)


def _table(metric: str, explained: str, names: Sequence[str], cells: Cells, titles: Mapping[Column, str]) -> Table:
    """Return a table without names that are the same in every line; the last of the names stays."""
    kept = [place for place in range(len(names)) if place == len(names) - 1 or len({of[place] for of in cells}) > 1]
    lines = [
        (*(escape(of[place]) for place in kept), *(_number(of_line.get(column)) for column in titles))
        for of, of_line in cells.items()
    ]
    caption = escape(f"{TITLES[metric]} in percent. {explained}".strip())
    columns = (*(names[place] for place in kept), *map(escape, titles.values()))
    return Table(caption, columns, len(titles), (), lines)


def _published(table: published.PublishedTable) -> Table:
    """Return a published table with our numbers beside theirs; its footnotes are part of the caption."""

    def noted(text: str, notes: Sequence[int]) -> str:
        return escape(text) + (f"\\textsuperscript{{{', '.join(map(str, notes))}}}" if notes else "")

    footnotes = (f"({number}) {note}" for number, note in enumerate(table.footnotes, 1))
    caption = escape(" ".join((f"{table.title}.", *table.legend, *footnotes)))
    head, *lines = published.texts(table, noted)
    return Table(caption, head, len(table.columns), (), lines)


def _number(cell: Cell | None) -> str:
    if cell is None:
        return "--"
    number = f"{100 * cell.mean:.2f}"
    deviation = "" if cell.deviation is None else rf"\,{{\scriptsize$\pm$\,{100 * cell.deviation:.2f}}}"
    mark = "" if cell.comparison is None else cell.comparison.mark
    superscript = f"\\textsuperscript{{{_MARKS[mark]}}}" if mark else ""
    return (rf"\textbf{{{number}}}" if cell.best else number) + deviation + superscript
