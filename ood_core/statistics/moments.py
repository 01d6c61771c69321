"""Class-conditional moments in one pass over the data, and the whitening made of them; float64 throughout.

Moments of parts merge into the moments of the whole (Chan, Golub and LeVeque, 1983), so that chunks, shards and workers
can be summed up in any order, in memory C D + D D.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ood_core.errors import OODError

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassMoments:
    """What a set of embeddings looks like, class by class.

    Attributes:
        counts: int64 [C].
        means: [C, D]; zero for classes without a row.
        within: [D, D], the sum over rows of the outer product of the deviation from the mean of the row's class.
    """

    counts: Tensor
    means: Tensor
    within: Tensor

    @classmethod
    def of(cls, embeddings: Tensor, labels: Tensor, classes: int) -> Self:
        """Return the moments of these rows, [N, D] and int64 [N].

        Raises:
            OODError: A label lies outside of [0, C), or an embedding is not finite.
        """
        _require_usable(embeddings, labels, classes)
        counts = labels.bincount(minlength=classes)
        means = torch.zeros(classes, embeddings.shape[1], dtype=torch.float64)
        deviations = embeddings.double()
        for _ in range(2):  # the second round takes off what rounding left, so that constants have no scatter at all
            sums = torch.zeros_like(means).index_add_(0, labels, deviations)
            step = sums / counts.clamp(min=1)[:, None]
            means, deviations = means + step, deviations - step[labels]
        return cls(counts, means, deviations.T @ deviations)

    def merge(self, other: Self) -> Self:
        """Return the moments of both sets of rows together."""
        counts = self.counts + other.counts
        share = other.counts.double() / counts.clamp(min=1)
        weight = self.counts * share
        both = weight > 0
        gap = other.means - self.means
        drift = gap[both] * weight[both, None].sqrt()
        return type(self)(counts, self.means + gap * share[:, None], self.within + other.within + drift.T @ drift)

    @property
    def mean(self) -> Tensor:
        """The mean of all rows, [D]."""
        shares = self.counts.double() / self.counts.sum()
        rough = shares @ self.means
        return rough + shares @ (self.means - rough)  # exact for constants, as in `of`

    @property
    def between(self) -> Tensor:
        """The scatter of the class means around the mean, each as often as its class has rows, [D, D]."""
        deviations = (self.means - self.mean) * self.counts.double().sqrt()[:, None]
        return deviations.T @ deviations

    @property
    def tied_covariance(self) -> Tensor:
        """The covariance within classes, which all of them share, [D, D]; divided by N."""
        return self.within / self.counts.sum()

    @property
    def covariance(self) -> Tensor:
        """The covariance of all rows whatever their class, [D, D]; divided by N."""
        return (self.within + self.between) / self.counts.sum()


def moments(parts: Iterable[tuple[Tensor, Tensor]], classes: int) -> ClassMoments:
    """Return the moments of all parts, each embeddings [n, D] with labels int64 [n].

    Raises:
        OODError: There is no row, a label lies outside of [0, C), or an embedding is not finite.
    """
    whole: ClassMoments | None = None
    for embeddings, labels in parts:
        part = ClassMoments.of(embeddings, labels, classes)
        whole = part if whole is None else whole.merge(part)
    if whole is None or not whole.counts.any():
        raise OODError("there is no training image to take statistics of")
    return whole


@dataclass(frozen=True)
class Whitening:
    """A linear map after which the embeddings have unit covariance, so that Mahalanobis distances are Euclidean ones.

    Directions in which the embeddings do not vary are left out: the one that layer normalisation takes away, and all
    that fewer rows than dimensions cannot span.

    Attributes:
        mean: [D], subtracted first, because the transform would magnify its rounding error.
        transform: [D, rank].
        condition: Largest over smallest variance among the directions that were kept.
    """

    mean: Tensor
    transform: Tensor
    condition: float

    @classmethod
    def of(cls, mean: Tensor, covariance: Tensor, cutoff: float = 1e-10) -> Self:
        """Return the whitening for this covariance [D, D].

        Args:
            mean: [D].
            covariance: Symmetric, positive semi-definite up to rounding.
            cutoff: Directions with at most this share of the largest variance count as constant.

        Raises:
            OODError: The covariance is zero.
        """
        variances, directions = torch.linalg.eigh(covariance.double())
        kept = variances > cutoff * variances[-1]
        if variances[-1] <= 0:
            raise OODError("the embeddings do not vary, at least not within classes: distances would have no scale")
        scales = variances[kept].sqrt()
        if len(scales) < len(variances):
            _LOG.warning("embeddings vary in %d of %d directions; the others are left out", len(scales), len(variances))
        return cls(mean.double(), directions[:, kept] / scales, (variances[-1] / variances[kept][0]).item())

    @property
    def rank(self) -> int:
        """How many directions were kept."""
        return self.transform.shape[1]

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Return whitened embeddings, float64 [N, rank]."""
        return (embeddings.double() - self.mean) @ self.transform


def _require_usable(embeddings: Tensor, labels: Tensor, classes: int) -> None:
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise OODError(f"labels of training data must lie in 0..{classes - 1}, there is {wrong[0].item()}")
    broken = int((~embeddings.isfinite()).any(1).sum())
    if broken:
        raise OODError(f"{broken} of {len(embeddings)} training embeddings hold NaN or infinite values")
