"""Combinations of variant, case and scorer that the page draws, and how many of them fit into it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TypeVar

from ood_core.records.plan import Baseline
from ood_core.records.results import ResultRow

Wanted = TypeVar("Wanted")
Drawn = TypeVar("Drawn")


@dataclass(frozen=True)
class Combination:
    """Rows that share their ID scores, at the first seed and draw: their indices in the table, and their mean AUROC."""

    variant: str
    case: str
    scorer: str
    spectrum: str
    id_set: str
    seed: int
    draw: int
    title: str
    rows: tuple[int, ...]
    auroc: float


def combinations(rows: Sequence[ResultRow]) -> list[Combination]:
    """Return all combinations in the order of the table; of several seeds and draws the first."""
    grouped: dict[tuple[str, str, str, str, str], list[int]] = {}
    for index, row in enumerate(rows):
        grouped.setdefault((row.variant, row.case, row.scorer, row.spectrum, row.id_set), []).append(index)
    several = len({row.variant for row in rows}) > 1
    found = []
    for key, indices in grouped.items():
        variant, case, scorer, spectrum, _ = key
        repeat = rows[indices[0]].seed, rows[indices[0]].draw
        first = tuple(index for index in indices if (rows[index].seed, rows[index].draw) == repeat)
        auroc = mean(rows[index].auroc for index in first)
        names = (variant if several else "", case, scorer, "" if spectrum == "standard" else f"{spectrum} spectrum")
        found.append(Combination(*key, *repeat, " · ".join(filter(None, names)), first, auroc))
    return found


def ranked(found: Sequence[Combination], baseline: Baseline) -> list[Combination]:
    """Return the most interesting ones first: each case's baseline, the best of each variant and case, the others."""
    baselines: dict[str, Combination] = {}
    for one in found:
        if baseline.of(one.variant) == one.variant and baseline.scorer in ("", one.scorer):
            baselines.setdefault(one.case, one)
    best = {(one.variant, one.case): one for one in sorted(found, key=lambda one: one.auroc)}
    top = sorted(best.values(), key=lambda one: -one.auroc)
    return list(dict.fromkeys([*baselines.values(), *top, *found]))


def within_budget(
    wanted: Iterable[Wanted], draw: Callable[[Wanted], Drawn], size: Callable[[Drawn], int], budget: int
) -> list[Drawn]:
    """Return the drawings of the wanted, in their order, until the next one exceeds the budget of bytes."""
    drawn: list[Drawn] = []
    for one in wanted:
        made = draw(one)
        budget -= size(made)
        if budget < 0:
            break
        drawn.append(made)
    return drawn


def draw_combinations(
    found: Sequence[Combination],
    baseline: Baseline,
    draw: Callable[[Combination], Drawn],
    size: Callable[[Drawn], int],
    budget: int,
) -> list[Drawn]:
    """Return drawings in the order of the combinations; those that exceed the budget are of the least interesting."""
    drawn = within_budget(ranked(found, baseline), lambda one: (one, draw(one)), lambda pair: size(pair[1]), budget)
    return [made for _, made in sorted(drawn, key=lambda pair: found.index(pair[0]))]
