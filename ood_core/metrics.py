"""How well scores separate in-distribution from OOD images. Shares are fractions in [0, 1]; higher scores mean OOD."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ood_core.errors import OODError


@dataclass(frozen=True)
class Metrics:
    """One row of the report.

    Attributes:
        auroc: Probability that an OOD image scores higher than an ID image; ties count half.
        fpr95: Share of OOD images accepted by the threshold that accepts 95 % of the ID images.
        aupr_in: Average precision of finding the ID images; depends on how many there are of each.
        aupr_out: Average precision of finding the OOD images.
    """

    auroc: float
    fpr95: float
    aupr_in: float
    aupr_out: float


def measure(id_scores: Tensor, ood_scores: Tensor) -> Metrics:
    """Return the metrics for the scores of an ID test set [N] and an OOD set [M].

    Raises:
        OODError: A set is empty, or a score is not finite.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score  # takes seconds to import

    known, foreign = _usable(id_scores, "ID"), _usable(ood_scores, "OOD")
    scores = np.concatenate([known, foreign])
    is_ood = np.arange(len(scores)) >= len(known)
    return Metrics(
        auroc=float(roc_auc_score(is_ood, scores)),
        fpr95=float(np.mean(foreign <= threshold(id_scores))),
        aupr_in=float(average_precision_score(~is_ood, -scores)),
        aupr_out=float(average_precision_score(is_ood, scores)),
    )


def threshold(id_scores: Tensor, tpr: float = 0.95) -> float:
    """Return the score up to which an image is accepted as ID, interpolated linearly between scores.

    Args:
        id_scores: [N], of ID images that the scorer was not fitted to: training images lie too near.
        tpr: Share of them to accept.

    Raises:
        OODError: There are no scores, or one is not finite.
    """
    return float(np.quantile(_usable(id_scores, "ID"), tpr))


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of images [N, C] whose largest logit is that of their label.

    Raises:
        OODError: There are no images or no logits.
    """
    if not logits.numel():
        raise OODError("accuracy needs at least one image and a trained classifier")
    return (logits.argmax(1) == labels).double().mean().item()


def _usable(scores: Tensor, name: str) -> NDArray[np.float64]:
    values: NDArray[np.float64] = scores.double().numpy()
    if not len(values):
        raise OODError(f"there are no {name} scores to measure")
    broken = np.flatnonzero(~np.isfinite(values))
    if len(broken):
        raise OODError(f"{len(broken)} of {len(values)} {name} scores are NaN or infinite, first in row {broken[0]}")
    return values
