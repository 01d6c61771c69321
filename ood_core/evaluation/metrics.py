"""How well scores separate in-distribution from OOD images. Shares are fractions in [0, 1]; higher scores mean OOD.

Everything comes from the two sorted arrays of scores and the rank counts of the one in the other, so that millions of
scores take little longer than sorting them. benchmarks/metrics.py measures it; the tests compare with scikit-learn.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ood_core.errors import OODError
from ood_core.evaluation import TPR

RATES = ("auroc", "fpr95", "aupr_in", "aupr_out")
"""The metrics that the result table shows, with a bootstrap interval each."""

INTERVAL_ENDS = ("low", "high")
"""Suffixes of the names of the ends of their intervals: `auroc_low`."""

THREADED = 2**20
"""Number of scores from which on the two sets are sorted in two threads."""

CHUNK = 2**16
"""Rows of logits in a batch."""

Scores: TypeAlias = NDArray[np.float64]
Counts: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Metrics:
    """How well the scores of N ID images and M OOD images are separated.

    Attributes:
        auroc: Probability that an OOD image scores higher than an ID image; ties count half.
        fpr95: Share of OOD images that score at most the interpolated 95 % quantile of the ID scores. With few ID
            images that quantile accepts less than 95 % of them: 9 of 10, or 104 of 110.
        fpr95_ood_recall: OpenOOD's quantity of that name: share of ID images rejected by the highest threshold that
            rejects 95 % of the OOD images.
        aupr_in: Average precision of finding the ID images; depends on how many there are of each.
        aupr_out: Average precision of finding the OOD images.
        aupr_in_trapezoid: Area under the precision-recall curve by straight lines between its points, as OpenOOD has
            it, of finding the ID images. It is optimistic: no threshold lies on those lines.
        aupr_out_trapezoid: The same of finding the OOD images.
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


def measure(id_scores: Tensor | Scores, ood_scores: Tensor | Scores) -> Metrics:
    """Return the metrics for the scores of an ID test set [N] and an OOD set [M].

    Raises:
        OODError: A set is empty, or a score is not finite.
    """
    id_scores, ood_scores = require_finite(id_scores, "ID"), require_finite(ood_scores, "OOD")
    if len(id_scores) + len(ood_scores) < THREADED:
        id_scores, ood_scores = np.sort(id_scores), np.sort(ood_scores)
    else:
        with ThreadPoolExecutor(2) as threads:  # numpy releases the GIL while it sorts
            id_scores, ood_scores = threads.map(np.sort, (id_scores, ood_scores))
    n, m = len(id_scores), len(ood_scores)
    below, upto = rank_counts(ood_scores, id_scores)
    ood_upto = np.cumsum(np.bincount(below, minlength=n + 1))[:-1]  # OOD scores not above each ID score
    ood_below = np.cumsum(np.bincount(upto, minlength=n + 1))[:-1]
    aupr_out, aupr_out_trapezoid = _precision_recall_areas(ood_scores[::-1], (n - upto)[::-1], (n - below)[::-1])
    aupr_in, aupr_in_trapezoid = _precision_recall_areas(id_scores, ood_below, ood_upto)
    detected = ood_scores[-1 - int(np.searchsorted(np.arange(1, m + 1) / m, TPR))]  # 95 % of OOD reach this score
    return Metrics(
        auroc=(int(below.sum()) + int(upto.sum())) / 2 / (n * m),
        fpr95=int(np.searchsorted(ood_scores, threshold(id_scores), side="right")) / m,
        fpr95_ood_recall=(n - int(np.searchsorted(id_scores, detected))) / n,
        aupr_in=aupr_in,
        aupr_out=aupr_out,
        aupr_in_trapezoid=aupr_in_trapezoid,
        aupr_out_trapezoid=aupr_out_trapezoid,
        ties=(int(upto.sum()) - int(below.sum())) / (n * m),
    )


def rank_counts(scores: Scores, others: Scores) -> tuple[Counts, Counts]:
    """Return how many of the other scores lie below each score, and how many do not lie above it, [N] each.

    The others, at least one, are ascending; ascending scores are counted faster, as they use the cache.
    """
    below = np.searchsorted(others, scores)
    tied = np.flatnonzero(others[np.minimum(below, len(others) - 1)] == scores)
    upto = below.copy()
    upto[tied] = np.searchsorted(others, scores[tied], side="right")
    return below, upto


def threshold(id_scores: Tensor | Scores, tpr: float = TPR) -> float:
    """Return the quantile of ID scores, interpolated linearly, as the paper's FPR@95 has it.

    It guarantees no rate: with few scores it accepts less than `tpr` of them (9 of 10 at 0.95), and of new images less
    again. `calibration.Calibration.threshold` is the one with a guarantee.

    The scorer must not be fitted to these images: training images lie too near.

    Raises:
        OODError: There are no scores, or one is not finite.
    """
    return float(np.quantile(require_finite(id_scores, "ID"), tpr))


def require_finite(scores: Tensor | Scores, name: str) -> Scores:
    """Return the scores [N] of the named set as float64, all of them finite.

    Raises:
        OODError: There are no scores, or one is not finite.
    """
    values: Scores = np.asarray(scores, np.float64)
    if not len(values):
        raise OODError(f"there are no {name} scores to measure")
    broken = np.flatnonzero(~np.isfinite(values))
    if len(broken):
        raise OODError(f"{len(broken)} of {len(values)} {name} scores are NaN or infinite, first in row {broken[0]}")
    return values


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of images [N, C] whose largest logit is that of their label.

    Raises:
        OODError: There are no images or no logits.
    """
    if not logits.numel():
        raise OODError("accuracy needs at least one image and a trained classifier")
    return (logits.argmax(1) == labels).double().mean().item()


def expected_calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Return the mean distance of softmax confidence and accuracy over the images [N, C] (Guo et al., 2017).

    Bins have equal width in (0, 1]; a confidence at an edge belongs to the lower one.

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


def _precision_recall_areas(positives: Scores, before: Counts, through: Counts) -> tuple[float, float]:
    """Return average precision, and the area by trapezoids, of scores in the order in which a threshold finds them.

    `before` counts the negatives strictly before each, `through` those before it or tied with it.
    """
    last = np.flatnonzero(np.append(positives[1:] != positives[:-1], True))  # the last of each group of equal scores
    first = np.concatenate([[0], last[:-1] + 1])
    precision = (last + 1) / (last + 1 + through[last])
    negatives = before[first]
    earlier = np.divide(first, first + negatives, out=np.ones(len(first)), where=first + negatives > 0)
    weights = last + 1 - first
    return float(weights @ precision) / len(positives), float(weights @ (precision + earlier)) / 2 / len(positives)
