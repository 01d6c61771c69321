"""Tests of drift: whether new images still score like the held-out ID images, of a batch or of a stream.

`kolmogorov_smirnov` compares two sets of scores, once. `Sequential` may be read after every image: it is a conformal
test martingale, the capital of a gambler who bets against exchangeability at fair odds. While calibration images and
new ones are exchangeable, it ever reaches 1 / alpha with probability alpha at most, in an endless stream too (Ville).

The bets are on conformal p-values, the rank of each new score among calibration scores and all new ones before it, ties
broken at random; under exchangeability they are independent and uniform (Vovk, Gammerman & Shafer, 2005, Algorithmic
learning in a random world, ch. 7, also for power bets). Linear bets, those of the jumpers of Vovk et al. (2021, Retrain
or not retrain: conformal test martingales for change-point detection), see that all scores move; power bets, which
stake on the smallest p-values, see that some images are far out. A jumper changes bets at a fixed rate, and loses
capital with every quiet image; here the capital is a mixture over when the betting begins, so that a share of
1 / (1 + log (1 + n)) is still there to be bet after n images, however quiet they were.

New images join the reference of later ones, so evidence comes from the time around a change. Slow or short changes, and
scores that only move closer together, are left to the test of two sets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ood_core.errors import OODError, format_image_count
from ood_core.evaluation.metrics import Counts, Scores, rank_counts, require_finite

ALPHA = 0.01
"""Default false alarm rate of each test."""

LINEAR = np.array([-1.5, -0.5, 0.5, 1.5])
"""Bets e, each paying 1 + e (p - 1/2): negative ones on higher scores; below 2, where one image could lose all."""

POWER = np.array([0.5, 0.8])
"""Bets k, each paying k p ** (k - 1): on few scores that are higher than nearly all."""

CHUNK = 256
"""Scores that are ranked together; the number of comparisons grows with the square."""


@dataclass(frozen=True)
class KS:
    """Result of the two-sided Kolmogorov-Smirnov test.

    Attributes:
        statistic: The largest gap between the shares of calibration and of new scores up to a value, in [0, 1].
        p_value: Probability of such a gap or a larger one if both come from one distribution; for a single look.
        median: Share of calibration scores below the median of the new ones; ties count half, so 0.5 is no shift.
        calibration: Number of calibration scores.
        images: Number of new scores.
        at: Score at which the gap is.
    """

    statistic: float
    p_value: float
    median: float
    calibration: int
    images: int
    at: float

    @property
    def direction(self) -> str:
        """Direction of the shift: 'higher', 'lower', or only 'differently'.

        Where all scores move, the median moves by about the statistic; where it moves by far less, it is not the point.
        """
        if abs(self.median - 0.5) < self.statistic / 4:
            return "differently"
        return "higher" if self.median > 0.5 else "lower"


def kolmogorov_smirnov(calibration: Scores, scores: Scores) -> KS:
    """Return how far the distributions of calibration scores [M] and new scores [N] lie apart.

    The p-value is exact up to 10000 scores in a set, then asymptotic; with ties it is larger than need be.

    Raises:
        OODError: A set is empty, or a score is not finite.
    """
    from scipy.stats import ks_2samp  # slow

    held_out, new = require_finite(calibration, "calibration"), require_finite(scores, "new")
    found = ks_2samp(held_out, new)
    middle = np.median(new)
    median = (np.count_nonzero(held_out < middle) + np.count_nonzero(held_out <= middle)) / 2 / len(held_out)
    statistic, p_value, at = float(found.statistic), float(found.pvalue), float(found.statistic_location)
    return KS(statistic, p_value, median, len(held_out), len(new), at)


class Window:
    """The latest scores of a stream, for comparison with the calibration scores at any time.

    Its p-values are for one look each: of many, some are small by chance. `Sequential` allows many looks.

    Args:
        calibration: float64 [M].
        size: Number of the latest scores that count.

    Raises:
        OODError: There are no calibration scores, one is not finite, or the size is below 1.
    """

    def __init__(self, calibration: Scores, size: int = 1000) -> None:
        if size < 1:
            raise OODError(f"a window holds at least one score, not {size}")
        self._calibration = require_finite(calibration, "calibration")
        self._size, self._latest = size, np.empty(0)

    def __len__(self) -> int:
        return len(self._latest)

    def update(self, scores: Scores) -> None:
        """Add the next scores [n] of the stream, which may be none.

        Raises:
            OODError: A score is not finite; none of them is added.
        """
        if len(scores):
            latest = require_finite(scores, "new")[-self._size :]
            self._latest = np.concatenate([self._latest, latest])[-self._size :]

    def statistic(self) -> KS:
        """Return the test of the latest scores.

        Raises:
            OODError: There are none yet.
        """
        return kolmogorov_smirnov(self._calibration, self._latest)


class Sequential:
    """A test of drift that may be read after every image of one stream, in its order.

    It costs logarithmic time and 8 bytes of memory per image. The sizes of the updates change no bit.

    Args:
        calibration: float64 [M], in any order.
        alpha: Probability of ever raising an alarm while nothing drifts, at most.
        seed: Seed of the random order of equal scores.

    Attributes:
        images: Number of images seen.
        log_martingale: Natural logarithm of the evidence against exchangeability, which begins with 0.
        highest: Its maximum so far.
        alarm_at: The image, counted from 1, at which the evidence first reached 1 / alpha; None if it has not.

    Raises:
        OODError: There are no calibration scores, one is not finite, or alpha is not between 0 and 1.
    """

    def __init__(self, calibration: Scores, alpha: float = ALPHA, seed: int = 0) -> None:
        if not 0 < alpha < 1:
            raise OODError(f"alpha must lie between 0 and 1, not {alpha:g}")
        self.alpha = alpha
        self.images = 0
        self.log_martingale = 0.0
        self.highest = 0.0
        self.alarm_at: int | None = None
        self._ranks = _Ranks(require_finite(calibration, "calibration"))
        self._random = np.random.default_rng(seed)
        # of each bet, in logarithms: the present value of a stake of 1 laid at the beginning; then the sum of all
        # stakes, each divided by that value at its time
        self._growth = np.zeros(len(LINEAR) + len(POWER))
        self._staked = np.full(len(self._growth), -np.inf)

    def update(self, scores: Scores) -> Scores:
        """Add the next scores [n] of the stream, which may be none, and return `log_martingale` after each.

        Raises:
            OODError: A score is not finite; none of them is added.
        """
        left = require_finite(scores, "new") if len(scores) else scores
        evidence = [np.empty(0)]
        while len(left):
            part, left = left[: self._ranks.room], left[self._ranks.room :]
            before = self._ranks.count + np.arange(len(part))
            above, equal = self._ranks.add(part)
            place = 1 - self._random.random(
                len(part)
            )  # among equal scores; never 0, where power bets would be infinite
            evidence.append(self._bet((above + place * (equal + 1)) / (before + 1)))
            reached = np.flatnonzero(evidence[-1] >= -math.log(self.alpha))
            if self.alarm_at is None and len(reached):
                self.alarm_at = self.images + int(reached[0]) + 1
            self.images += len(part)
            self.log_martingale = float(evidence[-1][-1])
            self.highest = max(self.highest, float(evidence[-1].max()))
        return np.concatenate(evidence)

    def _bet(self, p_values: Scores) -> Scores:
        """Return the logarithm of the capital after each image, [n]; accumulated in order, so cuts change no bit."""
        before = self.images + np.arange(len(p_values), dtype=np.float64)
        idle, still_idle = 1 / (1 + np.log1p(before)), 1 / (1 + np.log1p(before + 1))
        # idle - still_idle without cancellation: what begins to be bet with this image
        begun = np.log(idle * still_idle * np.log1p(1 / (before + 1)) / len(self._growth))
        linear = np.log1p(LINEAR * (p_values[:, None] - 0.5))
        power = np.log(POWER) + (POWER - 1) * np.log(p_values[:, None])
        growth = np.add.accumulate(np.vstack([self._growth, np.hstack([linear, power])]))
        staked = np.logaddexp.accumulate(np.vstack([self._staked, begun[:, None] - growth[:-1]]))
        self._growth, self._staked = growth[-1], staked[-1]
        capital: Scores = np.logaddexp.reduce(np.column_stack([np.log(still_idle), (growth + staked)[1:]]), axis=1)
        return capital


class _Ranks:
    """All earlier scores: sorted runs, each longer than the next, and the latest unsorted ones.

    Runs of equal length are merged, as in a binary counter, so that there are few and each score is moved seldom.
    """

    def __init__(self, scores: Scores) -> None:
        self.count = len(scores)
        self._runs = [np.sort(scores)]
        self._latest = np.empty(CHUNK)
        self._filled = 0

    @property
    def room(self) -> int:
        """Number of scores that can be added at once; at least 1."""
        return CHUNK - self._filled

    def add(self, scores: Scores) -> tuple[Counts, Counts]:
        """Add scores, and return how many before each are above it and equal to it, [n] each."""
        first, last = self._filled, self._filled + len(scores)
        self._latest[first:last] = scores
        earlier = np.tri(len(scores), last, first - 1, dtype=np.bool_)
        others = self._latest[:last]
        above = np.count_nonzero((others > scores[:, None]) & earlier, axis=1)
        equal = np.count_nonzero((others == scores[:, None]) & earlier, axis=1)
        for run in self._runs:
            below, upto = rank_counts(scores, run)
            above += len(run) - upto
            equal += upto - below
        self.count += len(scores)
        self._filled = last
        if not self.room:
            run = np.sort(self._latest)
            while self._runs and len(self._runs[-1]) <= len(run):
                run = np.sort(np.concatenate([self._runs.pop(), run]), kind="stable")  # merges what is sorted
            self._runs.append(run)
            self._filled = 0
        return above, equal


def drifted(ks: KS, sequential: Sequential, alpha: float = ALPHA) -> bool:
    """Return whether either test sees drift; each does so on ID images with probability alpha at most."""
    return ks.p_value <= alpha or sequential.alarm_at is not None


def verdict(ks: KS, sequential: Sequential, alpha: float = ALPHA) -> str:
    """Return one line with the decision, direction, time and numbers of both tests.

    `sequential` is the test of the same images in their order, or of more that came before; it has its own alpha.
    """
    verb = "scores" if ks.images == 1 else "score"
    if drifted(ks, sequential, alpha):
        how = {"higher": "higher (more OOD) than", "lower": "lower (less OOD) than", "differently": "differently from"}
        said = f"drift: {format_image_count(ks.images)} {verb} {how[ks.direction]}"
    else:
        said = f"no drift: {format_image_count(ks.images)} {verb} like"
    p_value = f"p = {ks.p_value:.2g}" if ks.p_value else "p < 1e-300"
    needed, alarm = f"{1 / sequential.alpha:g}", sequential.alarm_at
    if alarm is None:
        evidence = f"highest evidence {math.exp(sequential.highest):.2g} of {needed}"
    else:
        evidence = f"evidence of {needed} reached at image {alarm}"
    over = "" if sequential.images == ks.images else f" of {format_image_count(sequential.images)}"
    evidence = f"evidence of {1 / sequential.alpha:g} reached at image {sequential.alarm_at}"
    if sequential.alarm_at is None:
        evidence = f"highest evidence {math.exp(sequential.highest):.2g} of {1 / sequential.alpha:g}"
    return (
        f"{said} the {ks.calibration} held-out ID images (KS {ks.statistic:.2g}, {p_value}; "
        f"sequential test{over}: {evidence}; median at quantile {ks.median:.2f} of theirs)"
    )
