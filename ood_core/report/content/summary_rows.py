"""The lines of the result tables: repeats as mean and deviation, means over OOD sets, cases side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from operator import attrgetter
from statistics import mean, stdev
from typing import Any

from ood_core.evaluation.significance import t_interval
from ood_core.records.findings import RowScores
from ood_core.records.results import ResultRow
from ood_core.records.stages import Baseline
from ood_core.report.content.comparisons import Comparison, Repeat, compare, one_measurement

TITLES = {
    "auroc": "AUROC",
    "fpr95": "FPR@95",
    "aupr_in": "AUPR-In",
    "aupr_out": "AUPR-Out",
    "id_accuracy": "ID acc.",
}

LOWER_IS_BETTER = "fpr95"
NOT_OF_A_SCORER = "id_accuracy"
"""Has no best: it is that of the network, the same for all its scorers and OOD sets."""

OWN_GROUPS = ("near", "far")
"""Groups of OOD sets that the recipe names; those of a protocol have another set in each case."""

Repeats = list[Repeat]


@dataclass(frozen=True)
class Cell:
    """A rate over the repeats, in [0, 1].

    Attributes:
        deviation: None for a single repeat.
        interval: 95 %: over several repeats that of the mean, of a single one that of the bootstrap.
        comparison: With the baseline; of the AUROC alone.
        best: Whether no line of the same case and OOD set shows a better number.
    """

    mean: float
    deviation: float | None
    interval: tuple[float, float] | None = None
    comparison: Comparison | None = None
    best: bool = False

    def __str__(self) -> str:
        deviation = "" if self.deviation is None else f" ± {100 * self.deviation:.2f}"
        return f"{100 * self.mean:.2f}{deviation}{'' if self.comparison is None else self.comparison.mark}"


@dataclass(frozen=True)
class Line:
    """One line of the table; a cell is None where the number cannot be had. Repeats are seeds times draws.

    Attributes:
        sets: How many OOD sets it is the mean of.
    """

    variant: str
    case: str
    scorer: str
    id_set: str
    ood_set: str
    group: str
    repeats: int
    cells: dict[str, Cell | None]
    sets: int = 1

    @property
    def comparison(self) -> Comparison | None:
        """How its AUROC compares with the baseline's."""
        cell = self.cells["auroc"]
        return None if cell is None else cell.comparison


def summarise(
    rows: Sequence[ResultRow], scores: Sequence[RowScores] = (), baseline: Baseline | None = None
) -> list[Line]:
    """Return the table's lines in the order of the recipe, each group of several OOD sets followed by their mean.

    Args:
        rows: Of the run.
        scores: Of each row; without them single repeats are not compared with the baseline.
        baseline: None compares nothing.
    """
    groups: list[tuple[Repeats, int]] = []
    for block in _grouped(_repeats(rows, scores), "variant", "case", "scorer", "id_set", "group"):
        sets = _grouped(block, "ood_set")
        groups += [(same, 1) for same in sets]
        if len(sets) > 1 and (means := _means(block, f"mean of {len(sets)}", len(sets))):
            groups.append((means, len(sets)))
    compared = compare([repeats for repeats, _ in groups], baseline or Baseline())
    lines = [_line(repeats, sets, found) for (repeats, sets), found in zip(groups, compared, strict=True)]
    places = [_compared_at(repeats[0].row) for repeats, _ in groups]
    for metric in TITLES:
        best = _best([line.cells[metric] for line in lines], places, metric)
        lines = [replace(line, cells=line.cells | {metric: cell}) for line, cell in zip(lines, best, strict=True)]
    return lines


# --------------------------------------------------------------------------------------------- cases as columns


@dataclass(frozen=True)
class CaseLine:
    """One scorer against one OOD set, or one group of a protocol, over all cases; then their mean, if it means much."""

    variant: str
    scorer: str
    ood_set: str
    cells: dict[str, Cell]
    mean: Cell | None


def by_case(
    rows: Sequence[ResultRow],
    metric: str,
    averaged: bool,
    scores: Sequence[RowScores] = (),
    baseline: Baseline | None = None,
) -> list[CaseLine]:
    """Return a table with a column for each case of a protocol; empty where there is only one case.

    Args:
        rows: Of the run.
        metric: Which rate.
        averaged: Whether the mean over the cases is wanted: of classes it is, of numbers of shots it is not.
        scores: Of each row, as for `summarise`.
        baseline: None compares nothing; only the AUROC is compared.
    """
    if len({row.case for row in rows}) < 2:
        return []
    repeats = [
        replace(repeat, row=replace(repeat.row, group=_against(repeat.row))) for repeat in _repeats(rows, scores)
    ]
    blocks = []
    for same in _grouped(repeats, "variant", "scorer", "group"):
        cases = _grouped(same, "case")
        blocks.append((cases, _means(same, "mean", len(cases)) if averaged else []))
    groups = [group for cases, means in blocks for group in (*cases, means) if group]
    compared = compare(groups, (metric == "auroc" and baseline) or Baseline())
    cells = [_cell(group, metric, found) for group, found in zip(groups, compared, strict=True)]
    best = _best(cells, [_compared_at(group[0].row) for group in groups], metric)
    cell_of = {id(group): cell for group, cell in zip(groups, best, strict=True) if cell is not None}
    return [_case_line(cases, means, cell_of) for cases, means in blocks]


def tables(lines: Sequence[CaseLine]) -> list[list[CaseLine]]:
    """Return the lines in tables of their own for each set of cases: variants may be of other classes."""
    grouped: dict[tuple[str, ...], list[CaseLine]] = {}
    for line in lines:
        grouped.setdefault(tuple(line.cells), []).append(line)
    return list(grouped.values())


def _case_line(cases: Sequence[Repeats], means: Repeats, cell_of: Mapping[int, Cell]) -> CaseLine:
    first = cases[0][0].row
    cells = {case[0].row.case: cell_of[id(case)] for case in cases if id(case) in cell_of}
    return CaseLine(first.variant, first.scorer, first.group, cells, cell_of.get(id(means)))


def _against(row: ResultRow) -> str:
    set_name = row.ood_set if row.group in OWN_GROUPS else row.group
    return set_name if row.spectrum == "standard" else f"{set_name}, full spectrum"


# ------------------------------------------------------------------------------------------------------- numbers


def _repeats(rows: Sequence[ResultRow], scores: Sequence[RowScores]) -> Repeats:
    return [Repeat(row, of_row) for row, of_row in zip_longest(rows, scores)]


def _grouped(repeats: Iterable[Repeat], *names: str) -> list[Repeats]:
    key: Callable[[ResultRow], Any] = attrgetter(*names)
    grouped: dict[Any, Repeats] = {}
    for repeat in repeats:
        grouped.setdefault(key(repeat.row), []).append(repeat)
    return list(grouped.values())


def _means(repeats: Repeats, title: str, count: int) -> Repeats:
    """Return the unweighted means over so many rows of each repeat; a repeat that lacks some has none."""
    return [
        Repeat(_mean_row([repeat.row for repeat in same], title))
        for same in _grouped(repeats, "seed", "draw")
        if len(same) == count
    ]


def _mean_row(rows: Sequence[ResultRow], title: str) -> ResultRow:
    values = {metric: [getattr(row, metric) for row in rows] for metric in TITLES}
    means: dict[str, Any] = {
        metric: None if None in of_metric else mean(of_metric) for metric, of_metric in values.items()
    }
    lost: dict[str, Any] = {
        f"{metric}_{end}": None for metric in TITLES if metric != NOT_OF_A_SCORER for end in ("low", "high")
    }
    return replace(rows[0], ood_set=title, images="+".join(row.images for row in rows), **means, **lost)


def _line(repeats: Repeats, sets: int, found: Comparison | None) -> Line:
    first = repeats[0].row
    cells = {name: _cell(repeats, name, found if name == "auroc" else None) for name in TITLES}
    names = first.variant, first.case, first.scorer, first.id_set, first.ood_set, first.group
    return Line(*names, len(repeats), cells, sets)


def _cell(repeats: Repeats, name: str, found: Comparison | None = None) -> Cell | None:
    rows = [repeat.row for repeat in repeats]
    values = [getattr(row, name) for row in rows]
    if any(value is None for value in values):
        return None
    return Cell(mean(values), stdev(values) if len(values) > 1 else None, _interval(rows, name), found)


def _interval(rows: Sequence[ResultRow], name: str) -> tuple[float, float] | None:
    if one_measurement(rows):
        low, high = (getattr(rows[0], f"{name}_{end}", None) for end in ("low", "high"))
        return None if low is None or high is None else (low, high)
    low, high = t_interval([getattr(row, name) for row in rows])
    return max(low, 0.0), min(high, 1.0)


def _compared_at(row: ResultRow) -> tuple[str, ...]:
    """Return what lines have in common that can be ranked."""
    return row.case, row.spectrum, row.id_set, row.ood_set, row.group, row.images


def _best(cells: Sequence[Cell | None], places: Sequence[tuple[str, ...]], metric: str) -> list[Cell | None]:
    """Return the cells with the best of each place marked, all of them where the numbers shown are equal."""
    sign = -1 if metric == LOWER_IS_BETTER else 1
    shown = [None if cell is None else sign * round(cell.mean, 4) for cell in cells]
    at: dict[tuple[str, ...], list[float]] = {}
    for place, value in zip(places, shown, strict=True):
        at.setdefault(place, []).extend([] if value is None or metric == NOT_OF_A_SCORER else [value])
    marked: list[Cell | None] = []
    for cell, place, value in zip(cells, places, shown, strict=True):
        best = len(at[place]) > 1 and value == max(at[place])
        marked.append(cell and replace(cell, best=best))
    return marked
