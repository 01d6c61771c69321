"""Confidence intervals of one run and of several seeds, and tests of differences.

`bootstrap` sorts the scores once. A resample is then a count for each score, and all metrics come from running sums of
the counts: its time is linear in scores times resamples, its memory in the scores alone, some 60 bytes each. So every
resample is drawn, whatever the number of scores. benchmarks/inference.py measures it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special  # scipy.stats has the same functions and takes far longer to import

from ood_core.errors import OODError
from ood_core.evaluation import CONFIDENCE, TPR
from ood_core.evaluation.metrics import RATES, Counts, Scores, rank_counts, require_finite

CHUNK = 2**16
"""Scores that are resampled together; few enough for a processor's cache."""


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
    """Return the percentile intervals of `metrics.RATES` (Efron & Tibshirani, 1993, ch. 13).

    ID images are resampled among ID images and OOD among OOD, by a generator each: the two that `default_rng(seed)` of
    numpy spawns. Their `integers(N, size=N)` are the ranks of the scores that make up a resample, so that the order of
    the images does not matter, and equal seeds give equal intervals.

    Raises:
        OODError: A set is empty, or a score is not finite.
    """
    sets = _RankedSets(_Ranked.of(require_finite(id_scores, "ID")), _Ranked.of(require_finite(ood_scores, "OOD")))
    randoms = np.random.default_rng(seed).spawn(2)
    rows = max(1, CHUNK // (len(id_scores) + len(ood_scores)))
    parts = [sets.measure(randoms, min(rows, resamples - done)) for done in range(0, resamples, rows)]
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    lows, highs = np.quantile(np.concatenate(parts, axis=1), tails, axis=1).tolist()
    return dict(zip(RATES, zip(lows, highs, strict=True), strict=True))


@dataclass(frozen=True)
class _Ranked:
    """A set of N scores to resample: its K distinct values, ascending, and the number below each, and N: [K + 1]."""

    values: Scores
    edges: Counts

    @classmethod
    def of(cls, scores: Scores) -> _Ranked:
        values, counts = np.unique(scores, return_counts=True)
        return cls(values, np.concatenate([[0], np.cumsum(counts)]))

    @property
    def size(self) -> int:
        return int(self.edges[-1])

    def resample_edges(self, random: np.random.Generator, rows: int) -> Counts:
        """Return `edges` of some resamples: [rows, K + 1]."""
        ranks = random.integers(self.size, size=(rows, self.size))
        ranks += self.size * np.arange(rows)[:, None]
        counts = np.bincount(ranks.ravel(), minlength=ranks.size).reshape(ranks.shape)
        below = np.zeros((rows, self.size + 1), np.int64)
        np.cumsum(counts, axis=1, out=below[:, 1:])
        return below if len(self.values) == self.size else below.take(self.edges, axis=1)


class _RankedSets:
    """Both sets, and the rank counts of the distinct scores of each among those of the other."""

    def __init__(self, of_id: _Ranked, of_ood: _Ranked) -> None:
        self.id, self.ood = of_id, of_ood
        self.id_below, self.id_upto = rank_counts(of_ood.values, of_id.values)
        self.ood_upto = rank_counts(of_id.values, of_ood.values)[1]

    def measure(self, randoms: Sequence[np.random.Generator], rows: int) -> Scores:
        """Return `metrics.RATES` of some resamples: [4, rows]."""
        of_id, of_ood = self.id.resample_edges(randoms[0], rows), self.ood.resample_edges(randoms[1], rows)
        below, drawn = of_id.take(self.id_below, axis=1), np.diff(of_ood)
        twice = np.einsum("rk,rk->r", drawn, below) + np.einsum("rk,rk->r", drawn, of_id.take(self.id_upto, axis=1))
        aupr_in = _average_precision(np.diff(of_id), of_id[:, 1:], of_ood.take(self.ood_upto, axis=1))
        aupr_out = _average_precision(drawn, self.ood.size - of_ood[:, :-1], self.id.size - below)
        # the FPR is the share of OOD scores up to `metrics.threshold` of the ID scores
        whole, share = divmod((self.id.size - 1) * TPR, 1)
        around = [min(int(whole) + step, self.id.size - 1) for step in (0, 1)]
        between = [self.id.values[np.count_nonzero(of_id[:, 1:] <= rank, axis=1)] for rank in around]
        places = np.searchsorted(self.ood.values, np.quantile(between, share, axis=0), side="right")
        fpr = np.take_along_axis(of_ood, places[:, None], axis=1)[:, 0] / self.ood.size
        return np.stack([twice / (2 * self.id.size * self.ood.size), fpr, aupr_in, aupr_out])


def _average_precision(drawn: Counts, positives: Counts, negatives: Counts) -> Scores:
    """Return the average precision of each resample.

    All are [rows, K]: how often each distinct score of the positives was drawn, and the numbers of positives and of
    negatives that have it or come before it.
    """
    precision = positives / np.maximum(positives + negatives, 1)  # 0 / 0 only where nothing was drawn
    shares: Scores = np.einsum("rk,rk->r", drawn, precision) / drawn.sum(axis=1)
    return shares


@dataclass(frozen=True)
class Placements:
    """Rank of each image among those of the other set, in the order of the images.

    Whole numbers, so that detectors that rank alike differ by exactly nothing.

    Attributes:
        of_id: For each of the N ID images twice the OOD images that score higher; equal scores count once.
        of_ood: For each of the M OOD images twice the ID images that score lower; equal scores count once.
    """

    of_id: Counts
    of_ood: Counts


def placements(id_scores: Scores, ood_scores: Scores) -> Placements:
    """Return the placements that DeLong's test of one detector needs, from two sorts (Sun & Xu, 2014).

    Raises:
        OODError: A set is empty, or a score is not finite.
    """
    id_scores, ood_scores = require_finite(id_scores, "ID"), require_finite(ood_scores, "OOD")
    return Placements(2 * len(ood_scores) - _twice_below(id_scores, ood_scores), _twice_below(ood_scores, id_scores))


def _twice_below(scores: Scores, others: Scores) -> Counts:
    """Return for each score how many of the others are lower, plus how many are not higher."""
    order = np.argsort(scores)
    counts = np.empty(len(scores), np.int64)
    counts[order] = np.add(*rank_counts(scores[order], np.sort(others)))
    return counts


def delong(first: Placements, second: Placements) -> Difference:
    """Return how the AUROC of two detectors differs on the same images (DeLong, DeLong & Clarke-Pearson, 1988).

    A difference whose variance is zero is certain: p is 0, or 1 where there is no difference. With a single image of a
    set the variance is unknown: everything from -1 to 1 is possible and p is 1.

    Raises:
        OODError: The detectors scored different numbers of images.
    """
    sizes = [(len(detector.of_id), len(detector.of_ood)) for detector in (first, second)]
    if sizes[0] != sizes[1]:
        counts = " and ".join(f"{n} ID + {m} OOD" for n, m in sizes)
        raise OODError(f"DeLong's test compares scores of the same images, not of {counts} images")
    of_id, of_ood = first.of_id - second.of_id, first.of_ood - second.of_ood
    pairs = 2 * len(of_id) * len(of_ood)
    difference = int(of_ood.sum()) / pairs
    if min(sizes[0]) == 1:
        return Difference(difference, -1.0, 1.0, 1.0)
    variance = (of_ood.var(ddof=1) * len(of_ood) + of_id.var(ddof=1) * len(of_id)) / pairs**2
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
    mean, error = _mean_and_error(values)
    margin = float(special.stdtrit(len(values) - 1, (1 + confidence) / 2)) * error
    return mean - margin, mean + margin


def paired_t(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Return how the means of two variants differ over the same seeds, by Student's paired t-test.

    Equal differences are certain: p is 0, or 1 if they are zero. Of a single pair the interval is from -inf to inf and
    p is 1.

    Raises:
        OODError: There are no pairs, or a value has no partner.
    """
    if not first or len(first) != len(second):
        raise OODError(f"a paired test needs pairs, not {len(first)} and {len(second)} values")
    differences = [one - other for one, other in zip(first, second, strict=True)]
    mean, error = _mean_and_error(differences)
    low, high = t_interval(differences)
    if len(differences) == 1:
        return Difference(mean, low, high, 1.0)
    freedom = len(differences) - 1
    return Difference(mean, low, high, _two_sided(mean, error, lambda statistic: special.stdtr(freedom, statistic)))


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error, exactly 0 for equal values and for a single one."""
    if min(values) == max(values):
        return values[0], 0.0
    return float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values))


def _two_sided(difference: float, error: float, below: Callable[[float], float]) -> float:
    """Return the two-sided p-value; `below` is the distribution function of difference / error under the null."""
    if error == 0:
        return float(difference == 0)
    return float(min(1.0, 2 * below(-abs(difference) / error)))
