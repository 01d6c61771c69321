"""The lines of the result tables: repeats as mean and deviation, means over OOD sets, cases side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from operator import attrgetter
from statistics import mean, stdev
from typing import Any

from ood_core.evaluation.metrics import INTERVAL_ENDS, RATES
from ood_core.evaluation.significance import t_interval
from ood_core.records.plan import Baseline
from ood_core.records.report_data import RowScores
from ood_core.records.results import ResultRow
from ood_core.report.content.comparisons import Comparison, Repeat, compare, one_measurement

NOT_OF_A_SCORER = "id_accuracy"
"""Has no best and no interval: it is that of the network, the same for all its scorers and OOD sets."""

TITLES = dict(zip((*RATES, NOT_OF_A_SCORER), ("AUROC", "FPR@95", "AUPR-In", "AUPR-Out", "ID acc."), strict=True))

CASE_METRICS = ("auroc", "fpr95")
"""Metrics that have a table of their own: with a column for each case, or in LaTeX for each OOD set."""

LOWER_IS_BETTER = "fpr95"

OWN_GROUPS = ("near", "far")
"""Groups of OOD sets that the recipe names; those of a protocol have another set in each case."""

Repeats = list[Repeat]


@dataclass(frozen=True)
class Cell:
    """A rate over the repeats, in [0, 1].

    Attributes:
        interval: 95 %: over several repeats that of the mean, of a single one that of the bootstrap.
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
    """A line of the table over its repeats, seeds times draws; `sets` counts the OOD sets that it is the mean of."""

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
        """Comparison of its AUROC with the baseline's."""
        cell = self.cells["auroc"]
        return None if cell is None else cell.comparison


def summarise(
    rows: Sequence[ResultRow], scores: Sequence[RowScores] = (), baseline: Baseline | None = None
) -> list[Line]:
    """Return the table's lines in the order of the recipe, each group of several OOD sets followed by their mean.

    Without scores, single repeats are not compared with the baseline.
    """
    groups: list[tuple[Repeats, int]] = []
    for block in _grouped(_repeats(rows, scores), "variant", "case", "scorer", "id_set", "group"):
        sets = _grouped(block, "ood_set")
        groups += [(same, 1) for same in sets]
        if len(sets) > 1 and (means := _means(block, f"mean of {len(sets)}", len(sets))):
            groups.append((means, len(sets)))
    repeats = [of for of, _ in groups]
    compared = compare(repeats, baseline or Baseline())
    columns = {name: _cells(repeats, name, compared if name == "auroc" else None) for name in TITLES}
    lines = []
    for place, (same, count) in enumerate(groups):
        row, cells = same[0].row, {name: column[place] for name, column in columns.items()}
        names = row.variant, row.case, row.scorer, row.id_set, row.ood_set, row.group
        lines.append(Line(*names, len(same), cells, count))
    return lines


@dataclass(frozen=True)
class CaseLine:
    """One scorer against one OOD set, or one group of a protocol, over all cases; then their mean if meaningful."""

    variant: str
    scorer: str
    ood_set: str
    cells: dict[str, Cell]
    mean: Cell | None


def case_tables(
    rows: Sequence[ResultRow],
    metric: str,
    averaged: bool,
    scores: Sequence[RowScores] = (),
    baseline: Baseline | None = None,
) -> list[list[CaseLine]]:
    """Return tables with a column for each case of a protocol, one for each set of cases; none for a single case.

    A mean over classes is meaningful (`averaged`), one over numbers of shots is not. Only the AUROC is compared.
    """
    if len({row.case for row in rows}) < 2:
        return []
    repeats = []
    for of in _repeats(rows, scores):
        against = of.row.ood_set if of.row.group in OWN_GROUPS else of.row.group
        against += "" if of.row.spectrum == "standard" else ", full spectrum"
        repeats.append(replace(of, row=replace(of.row, group=against)))
    blocks = []
    for same in _grouped(repeats, "variant", "scorer", "group"):
        cases = _grouped(same, "case")
        blocks.append((cases, _means(same, "mean", len(cases)) if averaged else []))
    groups = [group for cases, means in blocks for group in (*cases, means) if group]
    found = _cells(groups, metric, compare(groups, (metric == "auroc" and baseline) or Baseline()))
    cell_of = {id(group): cell for group, cell in zip(groups, found, strict=True) if cell is not None}
    tables: dict[tuple[str, ...], list[CaseLine]] = {}
    for cases, means in blocks:
        first = cases[0][0].row
        cells = {case[0].row.case: cell_of[id(case)] for case in cases if id(case) in cell_of}
        line = CaseLine(first.variant, first.scorer, first.group, cells, cell_of.get(id(means)))
        tables.setdefault(tuple(cells), []).append(line)
    return list(tables.values())


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
    means = []
    for same in _grouped(repeats, "seed", "draw"):
        if len(same) == count:
            rows = [repeat.row for repeat in same]
            rates: dict[str, Any] = {f"{metric}_{end}": None for metric in RATES for end in INTERVAL_ENDS}
            for metric in TITLES:
                values = [getattr(row, metric) for row in rows]
                rates[metric] = None if None in values else mean(values)
            images = "+".join(row.images for row in rows)
            means.append(Repeat(replace(rows[0], ood_set=title, images=images, **rates)))
    return means


def _cells(groups: Sequence[Repeats], name: str, comparisons: Sequence[Comparison | None] | None) -> list[Cell | None]:
    """Return the cell of each group; the best of the same images are marked, all of them if shown as equal."""
    cells: list[Cell | None] = []
    ranked: dict[tuple[str, ...], list[float]] = {}
    places = []
    sign = -1 if name == LOWER_IS_BETTER else 1
    for repeats, comparison in zip(groups, comparisons or [None] * len(groups), strict=True):
        rows = [repeat.row for repeat in repeats]
        values = [getattr(row, name) for row in rows]
        row = rows[0]
        places.append((row.case, row.spectrum, row.id_set, row.ood_set, row.group, row.images))
        if None in values:
            cells.append(None)
        else:
            deviation = stdev(values) if len(values) > 1 else None
            cells.append(Cell(mean(values), deviation, _interval(rows, name), comparison))
            ranked.setdefault(places[-1], []).append(sign * round(mean(values), 4))
    if name == NOT_OF_A_SCORER:
        return cells
    return [
        cell and replace(cell, best=len(ranked[at]) > 1 and sign * round(cell.mean, 4) == max(ranked[at]))
        for cell, at in zip(cells, places, strict=True)
    ]


def _interval(rows: Sequence[ResultRow], name: str) -> tuple[float, float] | None:
    if one_measurement(rows):
        low, high = (getattr(rows[0], f"{name}_{end}", None) for end in INTERVAL_ENDS)
        return None if low is None or high is None else (low, high)
    low, high = t_interval([getattr(row, name) for row in rows])
    return max(low, 0.0), min(high, 1.0)
