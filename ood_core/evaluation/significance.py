"""How far the numbers of a report can be trusted: intervals of one run, of several seeds, and tests of differences.

`bootstrap` sorts the scores once. A resample is then a count for each score, and all metrics come from running sums of
the counts: its time is linear in scores times resamples, its memory in the scores alone, some 60 bytes each. So there
is no upper limit, and whatever the number of scores every resample is drawn. benchmarks/inference.py measures it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special  # scipy.stats has the same functions and takes far longer to import

from ood_core.errors import OODError
from ood_core.evaluation.metrics import RECALL, usable

CONFIDENCE = 0.95
"""How often an interval is to hold the true value."""

CHUNK = 2**16
"""Scores that are resampled together; few enough for a processor's cache."""

Scores = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Difference:
    """The difference of two means, first minus second, with its interval and two-sided p-value."""

    difference: float
    low: float
    high: float
    p: float


def bootstrap(
    id_scores: Scores, ood_scores: Scores, resamples: int = 1000, seed: int = 0, confidence: float = CONFIDENCE
) -> dict[str, tuple[float, float]]:
    """Return the percentile intervals of auroc, fpr95, aupr_in and aupr_out (Efron & Tibshirani, 1993, ch. 13).

    ID images are resampled among ID images and OOD among OOD, by a generator each: the two that `default_rng(seed)` of
    numpy spawns. Their `integers(N, size=N)` are the ranks of the scores that make up a resample, so that the order of
    the images does not matter.

    Args:
        id_scores: [N].
        ood_scores: [M].
        resamples: How often to resample.
        seed: Equal seeds give equal intervals.
        confidence: Share of resamples inside an interval.

    Raises:
        OODError: A set is empty, or a score is not finite.
    """
    sets = _rank(usable(id_scores, "ID"), usable(ood_scores, "OOD"))
    randoms = np.random.default_rng(seed).spawn(2)
    together = max(1, CHUNK // (len(id_scores) + len(ood_scores)))
    parts = [sets.measure(randoms, min(together, resamples - done)) for done in range(0, resamples, together)]
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    lows, highs = np.quantile(np.concatenate(parts, axis=1), tails, axis=1).tolist()
    return dict(zip(("auroc", "fpr95", "aupr_in", "aupr_out"), zip(lows, highs, strict=True), strict=True))


@dataclass(frozen=True)
class _Ranked:
    """A set of N scores to be resampled.

    Attributes:
        values: Its K distinct scores, ascending.
        edges: How many scores lie below each of them, and N: [K + 1].
    """

    values: Scores
    edges: Counts

    @property
    def size(self) -> int:
        return int(self.edges[-1])

    def draw(self, random: np.random.Generator, rows: int) -> Counts:
        """Return `edges` of some resamples: [rows, K + 1]."""
        ranks = random.integers(self.size, size=(rows, self.size))
        ranks += self.size * np.arange(rows)[:, None]
        counts = np.bincount(ranks.ravel(), minlength=ranks.size).reshape(ranks.shape)
        below = np.zeros((rows, self.size + 1), np.int64)
        np.cumsum(counts, axis=1, out=below[:, 1:])
        return below if len(self.values) == self.size else below.take(self.edges, axis=1)


@dataclass(frozen=True)
class _RankedSets:
    """Both sets, and where their distinct scores lie among each other.

    Attributes:
        known: The ID scores.
        foreign: The OOD scores.
        below: How many distinct ID scores are below each distinct OOD score.
        upto: How many are not above it.
        reached: How many distinct OOD scores are not above each distinct ID score.
    """

    known: _Ranked
    foreign: _Ranked
    below: Counts
    upto: Counts
    reached: Counts

    def measure(self, randoms: Sequence[np.random.Generator], rows: int) -> Scores:
        """Return auroc, fpr95, aupr_in and aupr_out of some resamples: [4, rows]."""
        known, foreign = self.known.draw(randoms[0], rows), self.foreign.draw(randoms[1], rows)
        below, drawn = known.take(self.below, axis=1), np.diff(foreign)
        twice = np.einsum("rk,rk->r", drawn, below) + np.einsum("rk,rk->r", drawn, known.take(self.upto, axis=1))
        aupr_in = _average_precision(np.diff(known), known[:, 1:], foreign.take(self.reached, axis=1))
        aupr_out = _average_precision(drawn, self.foreign.size - foreign[:, :-1], self.known.size - below)
        auroc = twice / (2 * self.known.size * self.foreign.size)
        return np.stack([auroc, self._accepted(known, foreign), aupr_in, aupr_out])

    def _accepted(self, known: Counts, foreign: Counts) -> Scores:
        """Return the share of OOD scores up to the interpolated 95th percentile of the ID scores, for each resample."""
        whole, share = divmod((self.known.size - 1) * RECALL, 1)
        around = [min(int(whole) + step, self.known.size - 1) for step in (0, 1)]
        between = [self.known.values[np.count_nonzero(known[:, 1:] <= rank, axis=1)] for rank in around]
        places = np.searchsorted(self.foreign.values, np.quantile(between, share, axis=0), side="right")
        return np.take_along_axis(foreign, places[:, None], axis=1)[:, 0] / self.foreign.size


def _rank(known: Scores, foreign: Scores) -> _RankedSets:
    ranked = [
        _Ranked(values, np.concatenate([[0], np.cumsum(counts)]))
        for values, counts in (np.unique(scores, return_counts=True) for scores in (known, foreign))
    ]
    inside, outside = (each.values for each in ranked)
    below, upto = (np.searchsorted(inside, outside, side=side) for side in ("left", "right"))
    return _RankedSets(ranked[0], ranked[1], below, upto, np.searchsorted(outside, inside, side="right"))


def _average_precision(drawn: Counts, found: Counts, others: Counts) -> Scores:
    """Return the average precision of each resample.

    Args:
        drawn: How often each distinct score of those to be found was drawn: [rows, K].
        found: How many of those to be found have it or come before it.
        others: How many of the others have it or come before it.
    """
    precision = found / np.maximum(found + others, 1)  # 0 / 0 only where nothing was drawn
    shares: Scores = np.einsum("rk,rk->r", drawn, precision) / drawn.sum(axis=1)
    return shares


@dataclass(frozen=True)
class Placements:
    """Where each image lies among those of the other set, in the order of the images.

    Whole numbers, so that detectors that rank alike differ by exactly nothing.

    Attributes:
        inside: For each of the N ID images twice the OOD images that score higher; equal scores count once.
        outside: For each of the M OOD images twice the ID images that score lower; equal scores count once.
    """

    inside: Counts
    outside: Counts

    @property
    def auroc(self) -> float:
        """Probability that an OOD image scores higher than an ID image; ties count half."""
        return int(self.outside.sum()) / (2 * len(self.inside) * len(self.outside))


def placements(id_scores: Scores, ood_scores: Scores) -> Placements:
    """Return the placements that DeLong's test of one detector needs, from two sorts (Sun & Xu, 2014).

    Raises:
        OODError: A set is empty, or a score is not finite.
    """
    known, foreign = usable(id_scores, "ID"), usable(ood_scores, "OOD")
    return Placements(2 * len(foreign) - _twice_below(known, foreign), _twice_below(foreign, known))


def _twice_below(scores: Scores, others: Scores) -> Counts:
    """Return for each score how many of the others are lower, plus how many are not higher."""
    order = np.argsort(scores)
    ranked, ordered = scores[order], np.sort(others)  # sorted queries keep to the cache
    counts = np.empty(len(scores), np.int64)
    counts[order] = np.searchsorted(ordered, ranked) + np.searchsorted(ordered, ranked, side="right")
    return counts


def delong(first: Placements, second: Placements) -> Difference:
    """Return how the AUROC of two detectors differs on the same images (DeLong, DeLong & Clarke-Pearson, 1988).

    A difference whose variance is zero is certain: p is 0, or 1 where there is no difference. With a single image of a
    set the variance is unknown: everything from -1 to 1 is possible and p is 1.

    Raises:
        OODError: The detectors scored different numbers of images.
    """
    sizes = [(len(detector.inside), len(detector.outside)) for detector in (first, second)]
    if sizes[0] != sizes[1]:
        counts = " and ".join(f"{inside} ID + {outside} OOD" for inside, outside in sizes)
        raise OODError(f"DeLong's test compares scores of the same images, not of {counts} images")
    inside, outside = first.inside - second.inside, first.outside - second.outside
    pairs = 2 * len(inside) * len(outside)
    difference = int(outside.sum()) / pairs
    if min(sizes[0]) == 1:
        return Difference(difference, -1.0, 1.0, 1.0)
    variance = (outside.var(ddof=1) * len(outside) + inside.var(ddof=1) * len(inside)) / pairs**2
    error = math.sqrt(variance)
    margin = float(special.ndtri((1 + CONFIDENCE) / 2)) * error
    return Difference(difference, difference - margin, difference + margin, _two_sided(difference, error, special.ndtr))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted for being several (Holm, 1979), in the order given; none is above 1."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def t_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return Student's interval of the mean, over seeds; of a single value it is from -inf to inf.

    Equal values give an interval of no width.
    """
    if len(values) < 2:
        return -math.inf, math.inf
    mean, error = _mean(values)
    margin = float(special.stdtrit(len(values) - 1, (1 + confidence) / 2)) * error
    return mean - margin, mean + margin


def paired_t(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Return how the means of two variants differ over the same seeds, by Student's paired t-test.

    Differences that are all equal are certain: p is 0, or 1 where they are nothing. A single pair says nothing: the
    interval is from -inf to inf and p is 1.

    Raises:
        OODError: There are no pairs, or a value has no partner.
    """
    if not first or len(first) != len(second):
        raise OODError(f"a paired test needs pairs, not {len(first)} and {len(second)} values")
    differences = [one - other for one, other in zip(first, second, strict=True)]
    mean, error = _mean(differences)
    low, high = t_interval(differences)
    if len(differences) == 1:
        return Difference(mean, low, high, 1.0)
    freedom = len(differences) - 1
    return Difference(mean, low, high, _two_sided(mean, error, lambda statistic: special.stdtr(freedom, statistic)))


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error, which is exactly 0 where the values are equal or only one."""
    if min(values) == max(values):
        return values[0], 0.0
    return float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values))


def _two_sided(difference: float, error: float, below: Callable[[float], float]) -> float:
    """Return the two-sided p-value.

    Args:
        difference: That was found.
        error: Its standard error.
        below: The distribution function of their ratio where there is no difference.
    """
    if error == 0:
        return float(difference == 0)
    return float(min(1.0, 2 * below(-abs(difference) / error)))
