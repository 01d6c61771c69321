"""Published tables with our numbers beside theirs, cell by cell, for all formats of the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from ood_core.records.published import Cell, Label, Line
from ood_core.records.report_data import ReportData
from ood_core.records.results import ResultRow

NOT_RUN = "not run"
EXPOSED = "§"
"""Mark of a number whose network was trained with names of OOD classes."""

ELSEWHERE = "≉"
"""Mark of our number if it is of other images or of another system."""

HEADER = "ours / paper"

Repeat = tuple[int, int]
"""A seed and a draw."""


@dataclass(frozen=True)
class PublishedCell:
    """A published number and ours; in percent, or images of a hundred.

    Attributes:
        ours: The mean over seeds and draws; None if nothing was run.
        paper: As printed, or "".
        asked: Whether the recipe selects lines of ours; if not, only the paper's number is printed.
        difference: Ours less the paper's; None if one is missing or they do not compare.
        exposed: Whether our network was trained with names of OOD classes.
        instead: Whether ours is of other images or of another system.
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
        """Our number as printed, with its marks; "" unless it is asked for."""
        if not self.asked:
            return ""
        if self.ours is None:
            return NOT_RUN
        deviation = "" if self.deviation is None else f" ± {self.deviation:.1f}"
        return f"{self.ours:.1f}{deviation}{EXPOSED * self.exposed}{ELSEWHERE * self.instead}"

    @property
    def paper_text(self) -> str:
        """The published number with its mark, or "-"."""
        return f"{self.paper}{EXPOSED * self.paper_exposed}" if self.paper else "-"

    @property
    def text(self) -> str:
        """Both: "57.5 / 99.8"; the footnotes are not in it."""
        return f"{self.our_text} / {self.paper_text}" if self.asked else self.paper_text


@dataclass(frozen=True)
class PublishedRow:
    """A row of a published table."""

    heading: Label
    cells: tuple[PublishedCell, ...]


@dataclass(frozen=True)
class PublishedTable:
    """A published table as it is printed; columns are all but the first, which names the rows."""

    name: str
    title: str
    columns: tuple[Label, ...]
    rows: tuple[PublishedRow, ...]
    footnotes: tuple[str, ...]
    legend: tuple[str, ...]


def tables(report: ReportData) -> list[PublishedTable]:
    """Return the published tables of the recipe with our numbers in their cells."""
    found = _Found(report)
    filled = []
    for table in report.published:
        values = [[found.repeats(cell) for cell in cells] for _, cells in table.rows]
        rows = []
        for (label, cells), of_row in zip(table.rows, values, strict=True):
            of_label = []
            for cell, repeats in zip(cells, of_row, strict=True):
                parts = [table.rows[row][1][column] for row, column in cell.mean_of]
                averaged = [values[row][column] for row, column in cell.mean_of]
                means = [mean(of[repeat] for of in averaged) for repeat in _common(averaged)]
                of_label.append(_cell(cell, means if parts else list(repeats.values()), parts or [cell]))
            rows.append(PublishedRow(label, tuple(of_label)))
        legend = (*table.remarks, *_legend([cell for row in rows for cell in row.cells]))
        filled.append(PublishedTable(table.name, table.title, table.columns, tuple(rows), table.footnotes, legend))
    return filled


def texts(table: PublishedTable, noted: Callable[[str, Sequence[int]], str]) -> list[list[str]]:
    """Return the texts of a table, its head first, each with the numbers of its footnotes."""
    head = [noted(HEADER, ()), *(noted(column.text, column.notes) for column in table.columns)]
    rows = (
        [noted(row.heading.text, row.heading.notes), *(noted(cell.text, cell.notes) for cell in row.cells)]
        for row in table.rows
    )
    return [head, *rows]


def _cell(cell: Cell, values: Sequence[float], parts: Sequence[Cell]) -> PublishedCell:
    ours = mean(values) if values else None
    instead = any(part.instead for part in parts)
    return PublishedCell(
        ours=ours,
        deviation=stdev(values) if len(values) > 1 else None,
        paper=f"{cell.value} ± {cell.deviation}" if cell.deviation else cell.value,
        asked=cell.asked,
        difference=ours - float(cell.value) if ours is not None and cell.value and not instead else None,
        exposed=any(line.exposed for part in parts for line in part.lines),
        paper_exposed=cell.exposed,
        instead=instead,
        notes=cell.notes,
    )


def _legend(cells: Sequence[PublishedCell]) -> list[str]:
    sentences = [f"Each cell: {HEADER}; the paper's number alone where the recipe has nothing to put beside it."]
    if any(cell.paper_exposed or (cell.exposed and cell.ours is not None) for cell in cells):
        sentences.append(f"{EXPOSED}: the network was trained with names of OOD classes, as ImageNet-21k has them.")
    if any(cell.instead and cell.ours is not None for cell in cells):
        sentences.append(f"{ELSEWHERE}: ours is something else, as the footnotes say; the numbers do not compare.")
    return sentences


class _Found:
    """The numbers of a run by the lines of its table, then by seed and draw."""

    def __init__(self, report: ReportData) -> None:
        self.rows: dict[tuple[str, ...], dict[Repeat, ResultRow]] = {}
        for row in report.rows:
            self.rows.setdefault(_place(row), {})[row.seed, row.draw] = row
        self.accepted: dict[tuple[str | int, ...], dict[tuple[str, str], float]] = {}
        for pair in report.accepted:
            of_row = self.accepted.setdefault((*_place(pair), pair.seed, pair.draw), {})
            of_row[pair.ood_class, pair.id_class] = 100 * pair.accepted / pair.images

    def repeats(self, cell: Cell) -> dict[Repeat, float]:
        """Return our number under each seed and draw that has all lines of the cell.

        It is the mean over variants of the means over their cases of the means over the OOD sets of these.
        """
        values = [self._values(cell, line) for line in cell.lines]
        found = {}
        for repeat in _common(values):
            nested: dict[tuple[str, ...], dict[str, list[float]]] = {}
            for line, of in zip(cell.lines, values, strict=True):
                nested.setdefault((line.variant, line.scorer), {}).setdefault(line.case, []).append(of[repeat])
            found[repeat] = mean(mean(mean(of_case) for of_case in cases.values()) for cases in nested.values())
        return found

    def _values(self, cell: Cell, line: Line) -> dict[Repeat, float]:
        """Return percentages, or accepted images of a hundred; only pairs of classes that occur are in the report."""
        found: dict[Repeat, float] = {}
        for repeat, row in self.rows.get(_place(line), {}).items():
            if cell.metric != "accepted":
                rate = getattr(row, cell.metric)
                found |= {} if rate is None else {repeat: 100 * rate}
            elif (pairs := self.accepted.get((*_place(line), *repeat))) is not None:
                found[repeat] = pairs.get((cell.ood_class, cell.id_class), 0.0)
        return found


def _place(row: object) -> tuple[str, ...]:
    return tuple(getattr(row, name) for name in ("variant", "case", "scorer", "id_set", "ood_set"))


def _common(values: Sequence[Mapping[Repeat, float]]) -> list[Repeat]:
    return [repeat for repeat in values[0] if all(repeat in of for of in values)] if values else []
