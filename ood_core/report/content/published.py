"""Published tables with our numbers beside theirs, cell by cell, as every format of the report prints them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from ood_core.records.published import Cell, Line, Table
from ood_core.records.report_data import ReportData
from ood_core.records.results import ResultRow

NOT_RUN = "not run"
EXPOSED = "§"
"""Behind a number whose network was trained with names of OOD classes."""

ELSEWHERE = "≉"
"""Behind our number where it is something else, of other images or another system."""

HEADER = "ours / paper"

Repeat = tuple[int, int]
"""A seed and a draw."""


@dataclass(frozen=True)
class PublishedCell:
    """A published number and ours; in percent, or images of a hundred.

    Attributes:
        ours: The mean over seeds and draws; None where nothing was run.
        deviation: Over seeds and draws; None for a single one.
        paper: As printed; "" where the paper has none.
        asked: Whether the recipe says what of ours belongs here; if not, the paper's number stands alone.
        difference: Ours less the paper's; None where one is missing or they do not compare.
        exposed: Whether our network was trained with names of OOD classes.
        paper_exposed: Whether the paper's was.
        instead: Whether ours is something else, of other images or another system.
        notes: Numbers of the footnotes, from 1.
    """

    ours: float | None
    deviation: float | None
    paper: str
    asked: bool
    difference: float | None = None
    exposed: bool = False
    paper_exposed: bool = False
    instead: bool = False
    notes: tuple[int, ...] = ()

    @property
    def our_text(self) -> str:
        """Our number as printed, with its marks; "" where the paper's stands alone."""
        if not self.asked:
            return ""
        if self.ours is None:
            return NOT_RUN
        deviation = "" if self.deviation is None else f" ± {self.deviation:.1f}"
        return f"{self.ours:.1f}{deviation}{EXPOSED * self.exposed}{ELSEWHERE * self.instead}"

    @property
    def paper_text(self) -> str:
        """The published number with its mark, "-" where there is none."""
        return f"{self.paper}{EXPOSED * self.paper_exposed}" if self.paper else "-"

    @property
    def text(self) -> str:
        """Both: "57.5 / 99.8"; the footnotes are not in it."""
        return f"{self.our_text} / {self.paper_text}" if self.asked else self.paper_text


@dataclass(frozen=True)
class Heading:
    """The name of a row or a column, and the numbers of its footnotes."""

    text: str
    notes: tuple[int, ...] = ()


@dataclass(frozen=True)
class PublishedRow:
    """A row of a published table."""

    heading: Heading
    cells: tuple[PublishedCell, ...]


@dataclass(frozen=True)
class PublishedTable:
    """A published table as it is printed.

    Attributes:
        name: Such as T5a.
        title: What it is about.
        columns: All but the first, which names the rows.
        rows: In the order of the paper.
        footnotes: Numbered from 1.
        legend: What concerns all of it, and what the marks mean; a sentence each.
    """

    name: str
    title: str
    columns: tuple[Heading, ...]
    rows: tuple[PublishedRow, ...]
    footnotes: tuple[str, ...]
    legend: tuple[str, ...]


def tables(report: ReportData) -> list[PublishedTable]:
    """Return the published tables that the recipe names, with what was found in their cells."""
    found = _Found(report)
    return [_table(table, found) for table in report.published]


def _table(table: Table, found: _Found) -> PublishedTable:
    values = [[found.repeats(cell) for cell in cells] for _, cells in table.rows]
    rows = []
    for (label, cells), of_row in zip(table.rows, values, strict=True):
        filled = []
        for cell, single in zip(cells, of_row, strict=True):
            parts = [table.rows[row][1][column] for row, column in cell.mean_of]
            repeats = _averaged([values[row][column] for row, column in cell.mean_of]) if parts else single
            filled.append(_cell(cell, repeats, parts or [cell]))
        rows.append(PublishedRow(Heading(label.text, label.notes), tuple(filled)))
    columns = tuple(Heading(label.text, label.notes) for label in table.columns)
    return PublishedTable(table.name, table.title, columns, tuple(rows), table.footnotes, _legend(table, rows))


def _cell(cell: Cell, repeats: Mapping[Repeat, float], parts: Sequence[Cell]) -> PublishedCell:
    values = list(repeats.values())
    ours = mean(values) if values else None
    instead = any(part.instead for part in parts)
    comparable = ours is not None and cell.value and not instead
    return PublishedCell(
        ours=ours,
        deviation=stdev(values) if len(values) > 1 else None,
        paper=f"{cell.value} ± {cell.deviation}" if cell.deviation else cell.value,
        asked=cell.asked,
        difference=ours - float(cell.value) if ours is not None and comparable else None,
        exposed=any(line.exposed for part in parts for line in part.lines),
        paper_exposed=cell.exposed,
        instead=instead,
        notes=cell.notes,
    )


def _legend(table: Table, rows: Sequence[PublishedRow]) -> tuple[str, ...]:
    cells = [cell for row in rows for cell in row.cells]
    exposed = any(cell.paper_exposed or (cell.exposed and cell.ours is not None) for cell in cells)
    instead = any(cell.instead and cell.ours is not None for cell in cells)
    said = [
        f"Each cell: {HEADER}; the paper's number alone where the recipe has nothing to put beside it.",
        f"{EXPOSED}: the network was trained with names of OOD classes, as ImageNet-21k has them." if exposed else "",
        f"{ELSEWHERE}: ours is something else, as the footnotes say; the numbers do not compare." if instead else "",
    ]
    return (*table.remarks, *filter(None, said))


# --------------------------------------------------------------------------------------------------------- our numbers


class _Found:
    """The numbers of a run by the lines of its table, then by seed and draw."""

    def __init__(self, report: ReportData) -> None:
        self.rows: dict[tuple[str, ...], dict[Repeat, ResultRow]] = {}
        for row in report.rows:
            self.rows.setdefault(_place(row), {})[row.seed, row.draw] = row
        self.accepted = {
            (*_place(pair), pair.seed, pair.draw, pair.ood_class, pair.id_class): 100 * pair.accepted / pair.images
            for pair in report.accepted
        }
        self.classified = {(*_place(pair), pair.seed, pair.draw) for pair in report.accepted}

    def repeats(self, cell: Cell) -> dict[Repeat, float]:
        """Return our number under each seed and draw that has all lines of the cell."""
        values = [self._values(cell, line) for line in cell.lines]
        return {repeat: _nested_mean(cell.lines, [of[repeat] for of in values]) for repeat in _common(values)}

    def _values(self, cell: Cell, line: Line) -> dict[Repeat, float]:
        found = self.rows.get(_place(line), {}).items()
        if cell.metric == "accepted":
            return {at: self._accepted(cell, line, at) for at, _ in found if (*_place(line), *at) in self.classified}
        rates = {at: getattr(row, cell.metric) for at, row in found}
        return {at: 100 * rate for at, rate in rates.items() if rate is not None}

    def _accepted(self, cell: Cell, line: Line, at: Repeat) -> float:
        """Return accepted images of a hundred; pairs that do not occur are not among the accepted ones."""
        return self.accepted.get((*_place(line), *at, cell.ood_class, cell.id_class), 0.0)


def _place(row: object) -> tuple[str, ...]:
    return tuple(getattr(row, name) for name in ("variant", "case", "scorer", "id_set", "ood_set"))


def _common(values: Sequence[Mapping[Repeat, float]]) -> list[Repeat]:
    return [repeat for repeat in values[0] if all(repeat in of for of in values)] if values else []


def _averaged(parts: Sequence[Mapping[Repeat, float]]) -> dict[Repeat, float]:
    return {repeat: mean(of[repeat] for of in parts) for repeat in _common(parts)}


def _nested_mean(lines: Sequence[Line], values: Iterable[float]) -> float:
    """Return the mean over variants of the means over their cases of the means over the OOD sets of these."""
    nested: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for line, value in zip(lines, values, strict=True):
        nested.setdefault((line.variant, line.scorer), {}).setdefault(line.case, []).append(value)
    return mean(mean(mean(of_case) for of_case in cases.values()) for cases in nested.values())
