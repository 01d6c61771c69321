"""How well scores separate in-distribution from OOD images. Shares are fractions in [0, 1]; higher scores mean OOD.

Everything comes from the two sorted arrays of scores and one search of the one in the other, so that millions of scores
take little longer than sorting them. benchmarks/metrics.py measures it; scikit-learn is the reference of the tests.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ood_core.errors import OODError

RECALL = 0.95
"""The share of images that FPR@95 accepts, or detects."""

THREADED = 2**20
"""Scores from which on the two sets are sorted side by side."""

CHUNK = 2**16
"""Rows of logits that are looked at together."""


@dataclass(frozen=True)
class Metrics:
    """One row of the report. N ID images, M OOD images.

    Attributes:
        auroc: Probability that an OOD image scores higher than an ID image; ties count half.
        fpr95: Share of OOD images that score at most the interpolated 95 % quantile of the ID scores. With few ID
            images that quantile accepts less than 95 % of them: 9 of 10, or 104 of 110.
        fpr95_ood_recall: OpenOOD's quantity of that name: share of ID images rejected by the highest threshold that
            rejects 95 % of the OOD images.
        aupr_in: Average precision of finding the ID images; depends on how many there are of each.
        aupr_out: Average precision of finding the OOD images.
        aupr_in_trapezoid: Area under the precision-recall curve by straight lines between its points, as OpenOOD has
            it; ID images are to be found. It is optimistic: no threshold lies on those lines.
        aupr_out_trapezoid: The same where OOD images are to be found.
        ties: Share of the N x M pairs whose scores are equal.
    """

    auroc: float
    fpr95: float
    fpr95_ood_recall: float
    aupr_in: float
    aupr_out: float
    aupr_in_trapezoid: float
    aupr_out_trapezoid: float
    ties: float


def measure(id_scores: Tensor, ood_scores: Tensor) -> Metrics:
    """Return the metrics for the scores of an ID test set [N] and an OOD set [M].

    Raises:
        OODError: A set is empty, or a score is not finite.
    """
    known, foreign = _sorted(usable(_values(id_scores), "ID"), usable(_values(ood_scores), "OOD"))
    below = np.searchsorted(known, foreign)  # ID scores below each OOD score
    upto = _up_to(known, foreign, below)  # and those that are not above it
    pairs = len(known) * len(foreign)
    reached = np.cumsum(np.bincount(below, minlength=len(known) + 1))[:-1]  # OOD scores not above each ID score
    below_id = np.cumsum(np.bincount(upto, minlength=len(known) + 1))[:-1]  # and those below it
    aupr_out, aupr_out_trapezoid = _areas(foreign[::-1], (len(known) - upto)[::-1], (len(known) - below)[::-1])
    aupr_in, aupr_in_trapezoid = _areas(known, below_id, reached)
    return Metrics(
        auroc=(int(below.sum()) + int(upto.sum())) / 2 / pairs,
        fpr95=int(np.searchsorted(foreign, _quantile(known, RECALL), side="right")) / len(foreign),
        fpr95_ood_recall=_rejected(known, foreign),
        aupr_in=aupr_in,
        aupr_out=aupr_out,
        aupr_in_trapezoid=aupr_in_trapezoid,
        aupr_out_trapezoid=aupr_out_trapezoid,
        ties=(int(upto.sum()) - int(below.sum())) / pairs,
    )


def threshold(id_scores: Tensor, tpr: float = RECALL) -> float:
    """Return the quantile of ID scores, interpolated linearly, as the paper's FPR@95 has it.

    It guarantees no rate: with few scores it accepts less than `tpr` of them (9 of 10 at 0.95), and of new images less
    again. `calibration.Calibration.threshold` is the one with a guarantee.

    Args:
        id_scores: [N], of ID images that the scorer was not fitted to: training images lie too near.
        tpr: Which quantile, in [0, 1].

    Raises:
        OODError: There are no scores, or one is not finite.
    """
    return float(np.quantile(usable(_values(id_scores), "ID"), tpr))


def usable(scores: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    """Return the scores [N], all of them finite.

    Args:
        scores: [N].
        name: Of the set, for the message.

    Raises:
        OODError: There are no scores, or one is not finite.
    """
    if not len(scores):
        raise OODError(f"there are no {name} scores to measure")
    if np.isfinite(scores).all():
        return scores
    broken = np.flatnonzero(~np.isfinite(scores))
    raise OODError(f"{len(broken)} of {len(scores)} {name} scores are NaN or infinite, first in row {broken[0]}")


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of images [N, C] whose largest logit is that of their label.

    Raises:
        OODError: There are no images or no logits.
    """
    if not logits.numel():
        raise OODError("accuracy needs at least one image and a trained classifier")
    return (logits.argmax(1) == labels).double().mean().item()


def expected_calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Return how far the softmax confidence is from the accuracy, on average over images (Guo et al., 2017).

    Args:
        logits: [N, C].
        labels: int64 [N].
        bins: Parts of equal width that (0, 1] is cut into; a confidence at an edge belongs to the lower part.

    Raises:
        OODError: There are no images or no logits.
    """
    if not logits.numel():
        raise OODError("calibration needs at least one image and a trained classifier")
    gaps = torch.zeros(bins, dtype=torch.float64)
    for start in range(0, len(logits), CHUNK):
        confidence, predicted = logits[start : start + CHUNK].double().softmax(1).max(1)
        right = (predicted == labels[start : start + CHUNK]).double()
        place = (confidence * bins).ceil().long().clamp(1, bins) - 1
        gaps.index_add_(0, place, right - confidence)
    return float(gaps.abs().sum() / len(logits))


def _sorted(known: NDArray[np.float64], foreign: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    if len(known) + len(foreign) < THREADED:
        return [np.sort(known), np.sort(foreign)]
    with ThreadPoolExecutor(2) as threads:  # numpy lets other threads run while it sorts
        return list(threads.map(np.sort, (known, foreign)))


def _up_to(known: NDArray[np.float64], foreign: NDArray[np.float64], below: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many ID scores are not above each OOD score; searched for only where scores are tied."""
    tied = np.flatnonzero(known[np.minimum(below, len(known) - 1)] == foreign)
    upto = below if not len(tied) else below.copy()
    upto[tied] = np.searchsorted(known, foreign[tied], side="right")
    return upto


def _areas(found: NDArray[np.float64], before: NDArray[np.int64], through: NDArray[np.int64]) -> tuple[float, float]:
    """Return average precision, and the area by trapezoids.

    Args:
        found: Scores of the images to be found, the first to be found first.
        before: How many of the others come strictly before each.
        through: How many of the others come before it or together with it.
    """
    last = np.flatnonzero(np.append(found[1:] != found[:-1], True))  # the last of each group of equal scores
    first = np.concatenate([[0], last[:-1] + 1])
    precision = (last + 1) / (last + 1 + through[last])
    others = before[first]
    earlier = np.divide(first, first + others, out=np.ones(len(first)), where=first + others > 0)
    weights = last + 1 - first
    return float(weights @ precision) / len(found), float(weights @ (precision + earlier)) / 2 / len(found)


def _quantile(ordered: NDArray[np.float64], share: float) -> float:
    return float(np.quantile(ordered, share))


def _rejected(known: NDArray[np.float64], foreign: NDArray[np.float64]) -> float:
    """Return the share of ID scores from the highest threshold on that 95 % of the OOD scores reach."""
    shares = np.arange(1, len(foreign) + 1) / len(foreign)
    needed = int(np.searchsorted(shares, RECALL)) + 1
    return (len(known) - int(np.searchsorted(known, foreign[-needed]))) / len(known)


def _values(scores: Tensor) -> NDArray[np.float64]:
    values: NDArray[np.float64] = scores.double().numpy()
    return values
