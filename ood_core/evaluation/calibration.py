"""Thresholds and p-values from held-out in-distribution images alone, with guarantees for finitely many of them.

An image is called OOD when its score is above the threshold, and that is so exactly where its p-value is at most
1 - TPR. The p-value of a score s among M calibration scores is (1 + number of them that are at least s) / (M + 1)
(Vovk, Gammerman and Shafer, 2005, Algorithmic learning in a random world): for a new ID image, exchangeable with the
calibration images, P(p <= a) <= a, whatever the scorer and however few images there are. The threshold is therefore an
order statistic, the k-th smallest score with k = ceil((M + 1) TPR); no interpolated quantile has the guarantee.

Equal scores are equal up to rounding: the last bits of a score depend on the processor, the number of threads and the
size of the batch. A calibration score therefore counts as `TOLERANCE` of its size more than it is, in the threshold
and in p-values alike, so that a calibration image that is scored again is decided as before, as long as the
network's outputs are equal. That accepts a little more, so the guarantee stays.

All this holds on average over calibration sets; `interval` bounds the coverage of a single one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ood_core.errors import OODError, listed
from ood_core.evaluation import CONFIDENCE, TPR
from ood_core.evaluation.metrics import require_finite

TOLERANCE = 1e-9
"""Relative difference up to which a score equals a calibration score."""

_ROUNDING = 1e-9  # (M + 1) TPR may be a whole number that floats miss


def highest_tpr(images: int) -> float:
    """Return the highest TPR that so many calibration images guarantee, M / (M + 1), rounded down to three digits."""
    return math.floor(1000 * images / (images + 1)) / 1000


def least_images(tpr: float) -> int:
    """Return the number of calibration images that a TPR needs."""
    return math.ceil(tpr / (1 - tpr) - _ROUNDING)


@dataclass(frozen=True)
class Calibration:
    """The scores of M ID images that neither trained the network nor fitted the scorer.

    Attributes:
        scores: float64 [M], ascending.
        predicted: int64 [M], the predicted class of each image; None without a classifier.
    """

    scores: NDArray[np.float64]
    predicted: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, scores: NDArray[np.float64], predicted: NDArray[np.int64] | None = None) -> Calibration:
        """Return the calibration of scores in any order.

        Raises:
            OODError: There are none, or one is not finite.
        """
        order = np.argsort(require_finite(scores, "calibration"), kind="stable")
        return cls(scores[order], None if predicted is None else predicted[order])

    def __len__(self) -> int:
        return len(self.scores)

    @cached_property
    def upper(self) -> NDArray[np.float64]:
        """The highest scores [M], ascending, that still equal the calibration scores."""
        return self.scores + TOLERANCE * np.abs(self.scores)

    def threshold(self, tpr: float = TPR) -> float:
        """Return the score above which an image is OOD; a new ID image is accepted with probability `tpr` or more.

        Raises:
            OODError: `tpr` is not between 0 and 1, or too high for so few calibration images.
        """
        return float(self.upper[self._rank(tpr) - 1])

    def thresholds(self, classes: Sequence[str], tpr: float = TPR) -> NDArray[np.float64]:
        """Return a threshold for each predicted class, [C], from the calibration images of that prediction.

        Raises:
            OODError: Too few images are predicted to be of a class; names the first ones. Or there is no classifier.
        """
        _require_share(tpr)
        least = least_images(tpr)
        parts = self._by_class(len(classes))
        lacking = [f"'{name}' has {len(of)}" for name, of in zip(classes, parts, strict=True) if len(of) < least]
        if lacking:
            raise OODError(
                f"a threshold for each class at a TPR of {tpr:g} needs {least} calibration images taken for each; "
                f"{listed(lacking)}; lower the TPR, hold out more images, or use one threshold for all"
            )
        return np.array([of.threshold(tpr) for of in parts])

    def p_values(
        self, scores: NDArray[np.float64], predicted: NDArray[np.int64] | None = None, classes: int = 0
    ) -> NDArray[np.float64]:
        """Return the conformal p-values [N] of scores [N]: small means OOD; an infinite score is beyond all others.

        With predicted classes, int64 [N], of C, an image is compared with the calibration images of its prediction.
        """
        if predicted is None:
            return self._p_values(scores)
        found = np.empty(len(scores))
        for label, part in enumerate(self._by_class(classes)):
            rows = predicted == label
            found[rows] = part._p_values(scores[rows])
        return found

    def interval(self, tpr: float = TPR, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Return the interval of the share of new ID images that this very threshold accepts.

        Over calibration sets the share is distributed as Beta(k, M + 1 - k) if scores have no ties (Vovk, 2012,
        Conditional validity of inductive conformal predictors); with ties it is larger.

        Raises:
            OODError: `tpr` is not between 0 and 1, or too high for so few calibration images.
        """
        from scipy.stats import beta  # slow

        rank = self._rank(tpr)
        tail = (1 - confidence) / 2
        low, high = beta.ppf([tail, 1 - tail], rank, len(self) + 1 - rank)
        return float(low), float(high)

    def _p_values(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        at_least = len(self) - np.searchsorted(self.upper, scores, side="left")
        shares: NDArray[np.float64] = (1 + at_least) / (len(self) + 1)
        return shares

    def _rank(self, tpr: float) -> int:
        """Return k: the threshold is the k-th smallest score."""
        _require_share(tpr)
        rank = math.ceil((len(self) + 1) * tpr - _ROUNDING)
        if rank > len(self):
            raise OODError(
                f"a TPR of {tpr:g} needs {least_images(tpr)} calibration images, there are {len(self)}, which can "
                f"vouch for {highest_tpr(len(self)):g} at most; lower the TPR, or hold out more images"
            )
        return rank

    @cached_property
    def _parts(self) -> dict[int, list[Calibration]]:
        return {}

    def _by_class(self, classes: int) -> list[Calibration]:
        """Return the calibration of each class; empty for an absent one."""
        if self.predicted is None:
            raise OODError("nothing tells classes apart here, so there is one threshold for all")
        if classes not in self._parts:
            self._parts[classes] = [Calibration(self.scores[self.predicted == label]) for label in range(classes)]
        return self._parts[classes]


def _require_share(tpr: float) -> None:
    if not isinstance(tpr, (int, float)) or not 0 < tpr < 1:
        raise OODError(f"a TPR must lie between 0 and 1, not {tpr}")
