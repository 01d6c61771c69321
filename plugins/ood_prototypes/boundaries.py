"""Where an embedding lies in the geometry of the linear classifier: its boundaries, its weights, its patterns.

The predicted class is that of the largest logit. f is an embedding, z its logits, W the weight of the classifier, m the
mean of the training embeddings.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ood_core.interfaces import NonNegativeFloat, Outputs, Score, Scorer, ScorerInfo
from ood_prototypes.distances import class_means, require_usable

_LOG = logging.getLogger(__name__)
_NEAR = 1e-12  # of the length of the mean: embeddings this near to it count as that far away


@dataclass(frozen=True)
class BoundaryDistance(Score):
    """Minus the mean distance to the decision boundaries, in units of the distance to the mean."""

    inverse: Tensor  # [C, C], one over the distance between the weights of two classes; 0 where they are the same
    boundaries: Tensor  # float64 [C], how many boundaries a class has, at least 1
    origin: Tensor  # [D]; lengths are measured from here
    shortest: float  # the least length to divide by

    def __call__(self, outputs: Outputs) -> Tensor:
        logits = outputs.logits.double()
        top, predicted = logits.max(1)
        gaps = top[:, None] - logits
        mean = (gaps * self.inverse[predicted]).sum(1) / self.boundaries[predicted]
        lengths = (outputs.embeddings.double() - self.origin).norm(dim=1)
        score: Tensor = -mean / lengths.clamp(min=self.shortest)
        return score


@dataclass(frozen=True, kw_only=True)
class FastBoundaryDistance(Scorer):
    """Mean distance to the decision boundaries over the distance to the training mean (fDBD, Liu and Qin, 2024).

    Attributes:
        scale: "distance" divides by |f - m|, as the authors' code does; "norm" by |f|, OpenOOD's alternative.
    """

    name = "fdbd"
    needs = frozenset({"embeddings", "logits", "head"})
    scores = BoundaryDistance
    info = ScorerInfo(
        paper="Liu and Qin, 2024, Fast decision boundary based out-of-distribution detector",
        formula="-mean_c (z_k - z_c) / (‖W_k - W_c‖ ‖f - m‖), k = argmax z",
        fit="N D + C² D",
        score="C + D",
        notes="scale is the authors'; OpenOOD then takes the better of distance and norm on validation OOD images",
    )

    scale: Literal["distance", "norm"] = "distance"

    def fit(self, train: Outputs) -> BoundaryDistance:
        """Return the score; two classes with the same weight have no boundary, and are left out."""
        assert train.head is not None
        weight = train.head.weight.double()
        distances = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")
        inverse = torch.where(distances > 0, 1 / distances, 0)
        boundaries = (inverse > 0).sum(1)
        if alone := int((boundaries == 0).sum()):
            _LOG.warning("fdbd: %d of %d classes have no decision boundary and score 0", alone, len(weight))
        mean = _mean(train)
        origin = mean if self.scale == "distance" else torch.zeros_like(mean)
        return BoundaryDistance(inverse, boundaries.clamp(min=1).double(), origin, _NEAR * (mean.norm().item() or 1.0))


@dataclass(frozen=True)
class WeightProximity(Score):
    """Minus how well the embedding points along the weight of its class, minus its length."""

    weight: Tensor  # [C, D], of the classifier
    mean: Tensor  # [D], of the training embeddings
    alpha: float  # the share of the length

    def __call__(self, outputs: Outputs) -> Tensor:
        embeddings = outputs.embeddings.double()
        weights = self.weight[outputs.logits.argmax(1)].double()
        proximity = (normalize(embeddings - self.mean) * weights).sum(1)
        return -proximity - self.alpha * embeddings.abs().sum(1)


@dataclass(frozen=True, kw_only=True)
class NeuralCollapse(Scorer):
    """Proximity of the centred embedding to the weight of the predicted class (NCI, Liu and Qin, 2025).

    Attributes:
        alpha: α, for the length of the embedding, which OOD images make small; 1e-4 in the authors' code.
    """

    name = "nci"
    needs = frozenset({"embeddings", "logits", "head"})
    scores = WeightProximity
    info = ScorerInfo(
        paper="Liu and Qin, 2025, Detecting out-of-distribution through the lens of neural collapse",
        formula="-(f - m)·W_k / ‖f - m‖ - α ‖f‖₁, k = argmax z",
        fit="N D",
        score="C + D",
        notes="alpha is the authors'; they and OpenOOD then take the best of alpha 0.0001 to 0.1 on validation OOD "
        "images",
    )

    alpha: NonNegativeFloat = 1e-4

    def fit(self, train: Outputs) -> WeightProximity:
        assert train.head is not None
        return WeightProximity(train.head.weight, _mean(train), self.alpha)


@dataclass(frozen=True)
class PatternMatch(Score):
    """Minus the inner product with the pattern [C, D] of the predicted class."""

    patterns: Tensor

    def __call__(self, outputs: Outputs) -> Tensor:
        return -(outputs.embeddings.double() * self.patterns[outputs.logits.argmax(1)]).sum(1)


@dataclass(frozen=True, kw_only=True)
class SimplifiedHopfield(Scorer):
    """Simplified Hopfield energy (SHE, Zhang et al., 2023)."""

    name = "she"
    needs = frozenset({"embeddings", "logits", "labels"})
    scores = PatternMatch
    info = ScorerInfo(
        paper="Zhang et al., 2023, Out-of-distribution detection based on in-distribution data patterns memorization "
        "with modern Hopfield energy",
        formula="-f·S_k, k = argmax z, S_k the mean of f where label and prediction are k",
        fit="N (C + D)",
        score="C + D",
    )

    def fit(self, train: Outputs) -> PatternMatch:
        """Return the score; a class none of whose images is predicted right has the mean of all its images."""
        means, counts = class_means(_by_correctness(train), 2 * train.classes)
        right = counts[: train.classes]
        never = int((right == 0).sum())
        if never:
            _LOG.warning("she: no training image of %d of %d classes is predicted right", never, train.classes)
        return PatternMatch(torch.where(right[:, None] > 0, means[: train.classes], means[train.classes :]))


def _by_correctness(train: Outputs) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield embeddings with their labels, those predicted wrong as of a class C further."""
    for part in train.chunks():
        require_usable(part.embeddings, part.labels, train.classes)
        yield part.embeddings, part.labels + train.classes * (part.logits.argmax(1) != part.labels)


def _mean(train: Outputs) -> Tensor:
    parts = ((part.embeddings, torch.zeros_like(part.labels)) for part in train.chunks())
    return class_means(parts, classes=1)[0][0]
