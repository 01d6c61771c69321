"""The result table as people read it: one line for a variant, scorer and OOD set; seeds as mean and deviation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from statistics import mean, stdev

from ood_core.run import ResultRow

TITLES = {
    "auroc": "AUROC",
    "fpr95": "FPR@95",
    "aupr_in": "AUPR-In",
    "aupr_out": "AUPR-Out",
    "id_accuracy": "ID acc.",
}


@dataclass(frozen=True)
class Cell:
    """A rate over the seeds, in [0, 1]; no deviation for a single seed."""

    mean: float
    deviation: float | None

    def __str__(self) -> str:
        deviation = "" if self.deviation is None else f" ± {100 * self.deviation:.2f}"
        return f"{100 * self.mean:.2f}{deviation}"


@dataclass(frozen=True)
class Line:
    """One line of the table; a cell is None where the number cannot be had."""

    variant: str
    scorer: str
    ood_set: str
    group: str
    seeds: int
    cells: dict[str, Cell | None]


@dataclass(frozen=True)
class Column:
    """A column: its title, what a line has there, and whether that is a number."""

    title: str
    text: Callable[[Line], str]
    number: bool = False


def summarise(rows: Sequence[ResultRow]) -> list[Line]:
    """Return the table's lines in the order of the recipe."""
    grouped: dict[tuple[str, str, str, str], list[ResultRow]] = {}
    for row in rows:
        grouped.setdefault((row.variant, row.scorer, row.ood_set, row.group), []).append(row)
    return [Line(*key, len(same), {name: _cell(same, name) for name in TITLES}) for key, same in grouped.items()]


def _cell(rows: Sequence[ResultRow], name: str) -> Cell | None:
    values = [getattr(row, name) for row in rows]
    if any(value is None for value in values):
        return None
    return Cell(mean(values), stdev(values) if len(values) > 1 else None)


def columns(lines: Sequence[Line]) -> list[Column]:
    """Return the columns, rates in percent; the variant only where there are several."""
    several = len({line.variant for line in lines}) > 1
    return [
        *([Column("variant", attrgetter("variant"))] if several else []),
        Column("scorer", attrgetter("scorer")),
        Column("OOD set", attrgetter("ood_set")),
        Column("group", attrgetter("group")),
        *(Column(TITLES[name], partial(_text, name=name), number=True) for name in TITLES),
    ]


def _text(line: Line, name: str) -> str:
    cell = line.cells[name]
    return "-" if cell is None else str(cell)


def percent(rate: float | None) -> str:
    """Return a rate in percent, "-" for none."""
    return "-" if rate is None else f"{100 * rate:.2f}"
