"""What the page shows figures of: a scorer on one variant and case, at its first seed and draw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean

from ood_core.records.results import ResultRow
from ood_core.records.stages import Baseline


@dataclass(frozen=True)
class Combination:
    """The rows that share their ID scores.

    Attributes:
        title: Its name among the others.
        rows: Indices into the rows of the table, one for each OOD set.
        auroc: Their mean.
    """

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

    def is_baseline(self, baseline: Baseline) -> bool:
        """Return whether the others are compared with it."""
        return baseline.of(self.variant) == self.variant and baseline.scorer in ("", self.scorer)


def combinations(rows: Sequence[ResultRow]) -> list[Combination]:
    """Return all combinations in the order of the table; of several seeds and draws the first."""
    grouped: dict[tuple[str, ...], list[int]] = {}
    for index, row in enumerate(rows):
        key = (row.variant, row.case, row.scorer, row.spectrum, row.id_set)
        grouped.setdefault(key, []).append(index)
    several = len({row.variant for row in rows}) > 1
    found = []
    for (variant, case, scorer, spectrum, id_set), indices in grouped.items():
        first = rows[indices[0]]
        of_first = tuple(index for index in indices if _repeat(rows[index]) == _repeat(first))
        auroc = mean(rows[index].auroc for index in of_first)
        names = (variant if several else "", case, scorer, "" if spectrum == "standard" else f"{spectrum} spectrum")
        title = " · ".join(name for name in names if name)
        found.append(Combination(variant, case, scorer, spectrum, id_set, *_repeat(first), title, of_first, auroc))
    return found


def ranked(found: Sequence[Combination], baseline: Baseline) -> list[Combination]:
    """Return them by how much a reader wants them: a baseline, the best of each variant and case, then the others."""
    best = {(one.variant, one.case): one for one in sorted(found, key=lambda one: one.auroc)}
    top = sorted(best.values(), key=lambda one: -one.auroc)
    return list(dict.fromkeys([*_first(found, baseline), *top, *found]))


def _first(found: Sequence[Combination], baseline: Baseline) -> Iterator[Combination]:
    """Yield the first baseline of each case."""
    cases: set[str] = set()
    for one in found:
        if one.is_baseline(baseline) and one.case not in cases:
            cases.add(one.case)
            yield one


def _repeat(row: ResultRow) -> tuple[int, int]:
    return row.seed, row.draw
