"""Tests of the differences between the lines of a table and their baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from operator import attrgetter

from ood_core.evaluation.significance import Difference, Placements, delong, holm, paired_t, placements
from ood_core.records.plan import Baseline
from ood_core.records.report_data import RowScores
from ood_core.records.results import ResultRow

LEVEL = 0.05
"""Adjusted p-values below it are marked."""

BETTER, WORSE = "*", "†"

DELONG = "DeLong's test on the same images"
PAIRED_T = "paired t-test over the repeats"


@dataclass(frozen=True)
class Repeat:
    """A line of the table under one seed and draw; without scores if it is a mean over OOD sets."""

    row: ResultRow
    scores: RowScores | None = None


@dataclass(frozen=True)
class Comparison:
    """A line's AUROC minus its baseline's (`found`), and its p after Holm's correction for `of` comparisons."""

    against: str
    test: str
    found: Difference
    adjusted: float
    of: int

    @property
    def mark(self) -> str:
        """The mark behind the number: better, worse, or none if the difference is not significant."""
        if self.adjusted >= LEVEL:
            return ""
        return BETTER if self.found.difference > 0 else WORSE


def compare(lines: Sequence[Sequence[Repeat]], baseline: Baseline) -> list[Comparison | None]:
    """Return the comparison of each line; None for the baseline itself and if its images are not the same.

    Of several repeats at least two need one of the baseline with the same seed, draw and images. They are compared by a
    paired t-test. A single repeat, or several equal ones because no seed decides anything, by DeLong's test on scores.
    """
    place = attrgetter("variant", "scorer", "case", "spectrum", "id_set", "ood_set", "group")
    pairing = attrgetter("seed", "draw", "images")
    placed = {place(line[0].row): line for line in lines}
    ranked = cache(lambda scores: placements(scores.id_scores, scores.ood_scores))
    tests: list[tuple[str, Difference] | None] = []
    for line in lines:
        row = line[0].row
        named = replace(row, variant=baseline.of(row.variant), scorer=baseline.scorer or row.scorer)
        reference = placed.get(place(named), line)
        partners = {pairing(other.row): other for other in reference if reference is not line}
        pairs = [(repeat, partners[key]) for repeat in line if (key := pairing(repeat.row)) in partners]
        enough = len(pairs) > 1 or len(pairs) == len(line)  # a mean over three seeds is not tested by one of them
        tests.append(_test(pairs, ranked) if pairs and enough else None)
    found = [test for test in tests if test is not None]
    adjusted = iter(holm([difference.p for _, difference in found]))
    return [test and Comparison(str(baseline), *test, next(adjusted), len(found)) for test in tests]


def one_measurement(rows: Sequence[ResultRow]) -> bool:
    """Return whether all repeats are equal, of the same images: nothing in them depends on the seed or the draw."""
    return len({(row.images, row.auroc, row.fpr95, row.aupr_in, row.aupr_out) for row in rows}) == 1


def _test(
    pairs: Sequence[tuple[Repeat, Repeat]], ranked: Callable[[RowScores], Placements]
) -> tuple[str, Difference] | None:
    sides = list(zip(*pairs, strict=True))
    if not all(one_measurement([repeat.row for repeat in side]) for side in sides):
        return PAIRED_T, paired_t(*([repeat.row.auroc for repeat in side] for side in sides))
    first, second = pairs[0]
    if first.scores is None or second.scores is None or not first.row.images:
        return None
    return DELONG, delong(ranked(first.scores), ranked(second.scores))
