"""The result tables as people read them: repeats as mean and deviation, means over OOD sets, cases as columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from statistics import mean, stdev
from typing import Any

from ood_core.run import ResultRow

TITLES = {
    "auroc": "AUROC",
    "fpr95": "FPR@95",
    "aupr_in": "AUPR-In",
    "aupr_out": "AUPR-Out",
    "id_accuracy": "ID acc.",
}

OWN_GROUPS = ("near", "far")
"""Groups of OOD sets that the recipe names; those of a protocol have another set in each case."""


@dataclass(frozen=True)
class Cell:
    """A rate over the repeats, in [0, 1]; no deviation for a single one."""

    mean: float
    deviation: float | None

    def __str__(self) -> str:
        deviation = "" if self.deviation is None else f" ± {100 * self.deviation:.2f}"
        return f"{100 * self.mean:.2f}{deviation}"


@dataclass(frozen=True)
class Line:
    """One line of the table; a cell is None where the number cannot be had. Repeats are seeds times draws."""

    variant: str
    case: str
    scorer: str
    id_set: str
    ood_set: str
    group: str
    repeats: int
    cells: dict[str, Cell | None]


@dataclass(frozen=True)
class Column:
    """A column: its title, what a line has there, and whether that is a number."""

    title: str
    text: Callable[[Any], str]
    number: bool = False


def summarise(rows: Sequence[ResultRow]) -> list[Line]:
    """Return the table's lines in the order of the recipe, each group of several OOD sets followed by their mean."""
    lines = []
    for block in _grouped(rows, lambda row: (row.variant, row.case, row.scorer, row.id_set, row.group)):
        sets = _grouped(block, attrgetter("ood_set"))
        lines += [_line(same) for same in sets]
        if len(sets) > 1:
            lines.append(_line([_mean_row(same, f"mean of {len(sets)}") for same in _grouped(block, _repeat)]))
    return lines


def columns(lines: Sequence[Line]) -> list[Column]:
    """Return the columns, rates in percent; what is the same everywhere and says nothing is left out."""
    several = {name: len({getattr(line, name) for line in lines}) > 1 for name in ("variant", "case", "id_set")}
    titles = {"variant": "variant", "case": "case", "id_set": "ID set"}
    return [
        *(Column(titles[name], attrgetter(name)) for name in ("variant", "case") if several[name]),
        Column("scorer", attrgetter("scorer")),
        *([Column(titles["id_set"], attrgetter("id_set"))] if several["id_set"] and not several["case"] else []),
        Column("OOD set", attrgetter("ood_set")),
        Column("group", attrgetter("group")),
        *(Column(TITLES[name], partial(_text, name=name), number=True) for name in TITLES),
    ]


# --------------------------------------------------------------------------------------------- cases as columns


@dataclass(frozen=True)
class CaseLine:
    """One scorer against one OOD set, or one group of a protocol, over all cases; then their mean, if it means much."""

    variant: str
    scorer: str
    ood_set: str
    cells: dict[str, Cell]
    mean: Cell | None


def by_case(rows: Sequence[ResultRow], metric: str, averaged: bool) -> list[CaseLine]:
    """Return a table with a column for each case of a protocol; empty where there is only one case.

    Args:
        rows: Of the run.
        metric: Which rate.
        averaged: Whether the mean over the cases is wanted: of classes it is, of numbers of shots it is not.
    """
    if len({row.case for row in rows}) < 2:
        return []
    lines = []
    for same in _grouped(rows, lambda row: (row.variant, row.scorer, _against(row))):
        cells = {case[0].case: _cell(case, metric) for case in _grouped(same, attrgetter("case"))}
        means = [_mean_row(of_repeat, "") for of_repeat in _grouped(same, _repeat)] if averaged else []
        lines.append(
            CaseLine(
                same[0].variant,
                same[0].scorer,
                _against(same[0]),
                {case: cell for case, cell in cells.items() if cell is not None},
                _cell(means, metric) if means else None,
            )
        )
    return lines


def tables(lines: Sequence[CaseLine]) -> list[list[CaseLine]]:
    """Return the lines in tables of their own for each set of cases: variants may be of other classes."""
    grouped: dict[tuple[str, ...], list[CaseLine]] = {}
    for line in lines:
        grouped.setdefault(tuple(line.cells), []).append(line)
    return list(grouped.values())


def case_columns(lines: Sequence[CaseLine]) -> list[Column]:
    """Return the columns of the table over cases."""
    cases = list(dict.fromkeys(case for line in lines for case in line.cells))
    several = {name: len({getattr(line, name) for line in lines}) > 1 for name in ("variant", "ood_set")}

    def cell(line: CaseLine, case: str) -> str:
        return str(line.cells[case]) if case in line.cells else "-"

    return [
        *([Column("variant", attrgetter("variant"))] if several["variant"] else []),
        Column("scorer", attrgetter("scorer")),
        *([Column("OOD set", attrgetter("ood_set"))] if several["ood_set"] else []),
        *(Column(case, partial(cell, case=case), number=True) for case in cases),
        *([Column("mean", lambda line: str(line.mean), number=True)] if lines and lines[0].mean is not None else []),
    ]


def _against(row: ResultRow) -> str:
    set_name = row.ood_set if row.group in OWN_GROUPS else row.group
    return set_name if row.spectrum == "standard" else f"{set_name}, full spectrum"


# ------------------------------------------------------------------------------------------------------- numbers


def _grouped(rows: Iterable[ResultRow], key: Callable[[ResultRow], Any]) -> list[list[ResultRow]]:
    grouped: dict[Any, list[ResultRow]] = {}
    for row in rows:
        grouped.setdefault(key(row), []).append(row)
    return list(grouped.values())


def _repeat(row: ResultRow) -> tuple[int, int]:
    return row.seed, row.draw


def _line(same: Sequence[ResultRow]) -> Line:
    first = same[0]
    cells = {name: _cell(same, name) for name in TITLES}
    return Line(first.variant, first.case, first.scorer, first.id_set, first.ood_set, first.group, len(same), cells)


def _mean_row(rows: Sequence[ResultRow], title: str) -> ResultRow:
    """Return the unweighted means of one repeat, under this name."""
    values = {metric: [getattr(row, metric) for row in rows] for metric in TITLES}
    means: dict[str, Any] = {
        metric: None if None in of_metric else mean(of_metric) for metric, of_metric in values.items()
    }
    return replace(rows[0], ood_set=title, **means)


def _cell(rows: Sequence[ResultRow], name: str) -> Cell | None:
    values = [getattr(row, name) for row in rows]
    if any(value is None for value in values):
        return None
    return Cell(mean(values), stdev(values) if len(values) > 1 else None)


def _text(line: Line, name: str) -> str:
    cell = line.cells[name]
    return "-" if cell is None else str(cell)


def percent(rate: float | None) -> str:
    """Return a rate in percent, "-" for none."""
    return "-" if rate is None else f"{100 * rate:.2f}"
