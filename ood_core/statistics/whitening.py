"""The linear map after which embeddings have unit covariance."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

_LOG = logging.getLogger(__name__)


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
    def of(cls, mean: Tensor, covariance: Tensor, cutoff: float = 1e-10, directions: int | None = None) -> Self:
        """Return the whitening for this covariance [D, D].

        Directions with at most `cutoff` times the largest variance count as constant; of the others, the `directions`
        with the largest variances are kept (PCA), by default all. Where the embeddings do not vary at all, no direction
        has a scale: the map leaves them as they are, so that distances are Euclidean, and a warning is logged.
        """
        variances, vectors = principal(covariance, cutoff)
        if not len(variances):
            _LOG.warning("embeddings do not vary, at least not within classes; distances are Euclidean")
            return cls(mean.double(), torch.eye(len(mean), dtype=torch.float64, device=mean.device), 1.0)
        if len(variances) < len(mean):
            _LOG.warning("embeddings vary in %d of %d directions; the others are left out", len(variances), len(mean))
        if directions is not None:
            variances, vectors = variances[-directions:], vectors[:, -directions:]
        return cls(mean.double(), vectors / variances.sqrt(), (variances[-1] / variances[0]).item())

    @property
    def rank(self) -> int:
        """How many directions were kept."""
        return self.transform.shape[1]

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Return whitened embeddings, float64 [N, rank]."""
        return (embeddings.double() - self.mean) @ self.transform


def principal(covariance: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    """Return the variances [r], in rising order, and the directions [D, r] in which there is any, as `Whitening.of`."""
    variances, vectors = torch.linalg.eigh(covariance.double())
    kept = (variances > cutoff * variances[-1]) & (variances > 0)
    return variances[kept], vectors[:, kept]
