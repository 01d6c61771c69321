"""Whether new images still score as the held-out ID images did: one look at a batch, or a test watched all along.

`kolmogorov_smirnov` compares two sets of scores, once. `Sequential` may be asked after every image: it is a conformal
test martingale, the capital of somebody who bets against exchangeability at fair odds. While calibration and new images
are exchangeable, the capital ever reaches 1 / alpha with probability alpha at most, for an endless stream too (Ville).

The bets are on conformal p-values, the rank of each new score among calibration scores and all new ones before it, ties
broken at random; under exchangeability they are independent and uniform (Vovk, Gammerman & Shafer, 2005, Algorithmic
learning in a random world, ch. 7, also for power bets). Linear bets, those of the jumpers of Vovk et al. (2021, Retrain
or not retrain: conformal test martingales for change-point detection), see that all scores move; power bets, which
stake on the smallest p-values, see that some images are far out. A jumper changes bets at a fixed rate, and loses
capital with every quiet image; here the capital is a mixture over when the betting begins, so that a share of
1 / (1 + log (1 + n)) is still there to be bet after n images, however quiet they were.

New images join those that later ones are compared with, so evidence comes from the time around a change. What changes
too slowly, or for too few images, is for the test of two sets to find; so are scores that only draw together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ood_core.errors import OODError
from ood_core.evaluation.metrics import usable

ALPHA = 0.01
"""How often a test is to see drift where there is none."""

LINEAR = np.array([-1.5, -0.5, 0.5, 1.5])
"""Bets e, each paying 1 + e (p - 1/2): negative ones on higher scores; within 2, where an image could ruin a bet."""

POWER = np.array([0.5, 0.8])
"""Bets k, each paying k p ** (k - 1): on few scores that are higher than nearly all."""

CHUNK = 256
"""Scores that are ranked together; what is compared grows with the square."""

Scores = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class KS:
    """The two-sided test of Kolmogorov and Smirnov.

    Attributes:
        statistic: The largest gap between the shares of calibration and of new scores up to a value, in [0, 1].
        p_value: Probability of such a gap or a larger one if both came from one distribution and were looked at once.
        median: Share of calibration scores below the median of the new ones; ties count half, so 0.5 is no shift.
        calibration: How many calibration scores were compared.
        images: How many new ones.
        at: The score where the gap is.
    """

    statistic: float
    p_value: float
    median: float
    calibration: int
    images: int
    at: float

    @property
    def direction(self) -> str:
        """How the new images score: 'higher', 'lower', or only 'differently'.

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

    known, new = usable(calibration, "calibration"), usable(scores, "new")
    found = ks_2samp(known, new)
    middle = np.median(new)
    median = (np.count_nonzero(known < middle) + np.count_nonzero(known <= middle)) / 2 / len(known)
    statistic, p_value, at = float(found.statistic), float(found.pvalue), float(found.statistic_location)
    return KS(statistic, p_value, median, len(known), len(new), at)


class Window:
    """The latest scores of a stream, to be compared with the calibration scores at any time.

    Its p-values are for one look each: with many of them, some are small by chance. `Sequential` is made for that.

    Args:
        calibration: float64 [M].
        size: How many of the latest scores count.

    Raises:
        OODError: There are no calibration scores, one is not finite, or the size is below 1.
    """

    def __init__(self, calibration: Scores, size: int = 1000) -> None:
        if size < 1:
            raise OODError(f"a window holds at least one score, not {size}")
        self._calibration = usable(calibration, "calibration")
        self._ring = np.empty(size)
        self._seen = 0

    def __len__(self) -> int:
        return min(self._seen, len(self._ring))

    def update(self, scores: Scores) -> None:
        """Take in the next scores [n] of the stream, which may be none.

        Raises:
            OODError: A score is not finite; none of them is taken in.
        """
        if not len(scores):
            return
        size = len(self._ring)
        latest = usable(scores, "new")[-size:]
        self._seen += len(scores)
        self._ring[np.arange(self._seen - len(latest), self._seen) % size] = latest

    def statistic(self) -> KS:
        """Return the test of the latest scores.

        Raises:
            OODError: There are none yet.
        """
        return kolmogorov_smirnov(self._calibration, self._ring[: len(self)])


class Sequential:
    """A test of drift that may be looked at after every image; one stream, in its order.

    It costs logarithmic time and 8 bytes of memory an image. How the stream is cut into updates changes no bit.

    Args:
        calibration: float64 [M], in any order.
        alpha: How likely an alarm may ever be while nothing drifts.
        seed: Of the random order of equal scores.

    Attributes:
        images: How many have been seen.
        log_martingale: Natural logarithm of the evidence against exchangeability, which begins with 0.
        highest: The highest that it has been.
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
        self._ranks = _Ranks(usable(calibration, "calibration"))
        self._random = np.random.default_rng(seed)
        # of each bet, in logarithms: what a stake of 1 laid at the beginning has become; then the sum of all stakes,
        # each divided by what that had become when it was laid
        self._growth = np.zeros(len(LINEAR) + len(POWER))
        self._staked = np.full(len(self._growth), -np.inf)

    def update(self, scores: Scores) -> Scores:
        """Take in the next scores [n] of the stream, which may be none, and return `log_martingale` after each.

        Raises:
            OODError: A score is not finite; none of them is taken in.
        """
        left = usable(scores, "new") if len(scores) else scores
        parts = [np.empty(0)]
        while len(left):
            part = left[: self._ranks.room]
            parts.append(self._take(part))
            left = left[len(part) :]
        return np.concatenate(parts)

    def _take(self, scores: Scores) -> Scores:
        evidence = self._bet(self._p_values(scores))
        reached = np.flatnonzero(evidence >= -math.log(self.alpha))
        if self.alarm_at is None and len(reached):
            self.alarm_at = self.images + int(reached[0]) + 1
        self.images += len(scores)
        self.log_martingale = float(evidence[-1])
        self.highest = max(self.highest, float(evidence.max()))
        return evidence

    def _p_values(self, scores: Scores) -> Scores:
        before = self._ranks.count + np.arange(len(scores))
        above, equal = self._ranks.add(scores)
        place = 1 - self._random.random(len(scores))  # among equal scores; never 0, where power bets would be infinite
        p_values: Scores = (above + place * (equal + 1)) / (before + 1)
        return p_values

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
    """Scores among which new ones are ranked: sorted runs, each longer than the next, and the latest unsorted ones.

    Runs of equal length are merged, as in a binary counter, so that there are few and each score is moved seldom.

    Attributes:
        count: How many there are.
    """

    def __init__(self, scores: Scores) -> None:
        self.count = len(scores)
        self._runs = [np.sort(scores)]
        self._latest = np.empty(CHUNK)
        self._filled = 0

    @property
    def room(self) -> int:
        """How many can be added at once; at least 1."""
        return CHUNK - self._filled

    def add(self, scores: Scores) -> tuple[Counts, Counts]:
        """Return how many scores before each are above it and equal to it, [n] each."""
        first, last = self._filled, self._filled + len(scores)
        self._latest[first:last] = scores
        earlier = np.tri(len(scores), last, first - 1, dtype=np.bool_)
        others = self._latest[:last]
        above = np.count_nonzero((others > scores[:, None]) & earlier, axis=1)
        equal = np.count_nonzero((others == scores[:, None]) & earlier, axis=1)
        for run in self._runs:
            upto = np.searchsorted(run, scores, side="right")
            above += len(run) - upto
            equal += upto - np.searchsorted(run, scores, side="left")
        self.count += len(scores)
        self._filled = last
        if not self.room:
            self._merge()
        return above, equal

    def _merge(self) -> None:
        run = np.sort(self._latest)
        while self._runs and len(self._runs[-1]) <= len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]), kind="stable")  # merges what is sorted
        self._runs.append(run)
        self._filled = 0


def drifted(ks: KS, sequential: Sequential, alpha: float = ALPHA) -> bool:
    """Return whether either test sees drift; each does so on ID images with probability alpha at most."""
    return ks.p_value <= alpha or sequential.alarm_at is not None


def verdict(ks: KS, sequential: Sequential, alpha: float = ALPHA) -> str:
    """Return in one line whether there is drift, since when and in which direction, and what was tested.

    Args:
        ks: Of the images.
        sequential: Of the same images in their order, or of more that came before.
        alpha: The p-value of `ks` up to which there is drift; `sequential` has its own.
    """
    how = {"higher": "higher (more OOD) than", "lower": "lower (less OOD) than"}.get(ks.direction, "differently from")
    drift = drifted(ks, sequential, alpha)
    verb = "scores" if ks.images == 1 else "score"
    said = f"{'drift' if drift else 'no drift'}: {_images(ks.images)} {verb} {how if drift else 'like'}"
    p_value = f"p = {ks.p_value:.2g}" if ks.p_value else "p < 1e-300"
    over = "" if sequential.images == ks.images else f" of {_images(sequential.images)}"
    return (
        f"{said} the {ks.calibration} held-out ID images (KS {ks.statistic:.2g}, {p_value}; "
        f"sequential test{over}: {_evidence(sequential)}; median at quantile {ks.median:.2f} of theirs)"
    )


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _evidence(sequential: Sequential) -> str:
    needed = f"{1 / sequential.alpha:g}"
    if sequential.alarm_at is None:
        return f"highest evidence {math.exp(sequential.highest):.2g} of {needed}"
    return f"evidence of {needed} reached at image {sequential.alarm_at}"
