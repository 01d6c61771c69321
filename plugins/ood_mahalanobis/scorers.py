"""Mahalanobis distance to the nearest class mean, or to the mean of all training images.

The distance is the Euclidean one after whitening, so scoring is a search for the nearest of a few points. Statistics
are taken in float64 and in one pass over the training outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt, Lt
from torch import Tensor

from ood_core.interfaces import Outputs, Score, Scorer
from ood_core.neighbors import nearest
from ood_core.statistics import Whitening, moments

Share = Annotated[float, Gt(0), Lt(1)]


@dataclass(frozen=True)
class MahalanobisDistance(Score):
    """Squared distance to the nearest of the whitened means.

    Attributes:
        mean: [D], subtracted before whitening.
        transform: [D, rank], the whitening.
        whitened_means: [K, rank].
        rank: Directions in which the training embeddings vary; the others are ignored.
        normalize: Whether embeddings are scaled to unit length first.
    """

    mean: Tensor
    transform: Tensor
    whitened_means: Tensor
    rank: int
    normalize: bool

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the score [N]."""
        embeddings = _prepare(outputs.embeddings, self.normalize)
        return nearest((embeddings - self.mean) @ self.transform, self.whitened_means)[0]


@dataclass(frozen=True, kw_only=True)
class Mahalanobis(Scorer):
    """Distance to the nearest class mean under the covariance that all classes share (Lee et al., 2018).

    Attributes:
        normalize: Scale embeddings to unit length first.
        cutoff: Directions with at most this share of the largest variance are ignored.
    """

    name = "mahalanobis"
    needs = frozenset({"embeddings", "labels"})
    scores = MahalanobisDistance

    normalize: bool = False
    cutoff: Share = 1e-10

    def fit(self, train: Outputs) -> MahalanobisDistance:
        """Return the distance; classes without a training image have no mean to be near to.

        Raises:
            OODError: Labels or embeddings are unusable, or no class varies.
        """
        parts = ((_prepare(part.embeddings, self.normalize), part.labels) for part in train.chunks())
        found = moments(parts, train.classes)
        whitening = Whitening.of(found.mean, found.tied_covariance, self.cutoff)
        return _distance(whitening, found.means[found.counts > 0], self.normalize)


@dataclass(frozen=True, kw_only=True)
class GlobalMahalanobis(Scorer):
    """Distance to the mean of all training images under their covariance; needs no labels.

    Attributes:
        normalize: Scale embeddings to unit length first, as in the released code of MOOD.
        cutoff: Directions with at most this share of the largest variance are ignored.
    """

    name = "mahalanobis-global"
    needs = frozenset({"embeddings"})
    scores = MahalanobisDistance

    normalize: bool = True
    cutoff: Share = 1e-10

    def fit(self, train: Outputs) -> MahalanobisDistance:
        """Return the distance.

        Raises:
            OODError: The embeddings are unusable or do not vary.
        """
        parts = ((_prepare(part.embeddings, self.normalize), torch.zeros_like(part.labels)) for part in train.chunks())
        found = moments(parts, classes=1)
        whitening = Whitening.of(found.mean, found.covariance, self.cutoff)
        return _distance(whitening, found.means, self.normalize)


def _distance(whitening: Whitening, means: Tensor, normalize: bool) -> MahalanobisDistance:
    return MahalanobisDistance(whitening.mean, whitening.transform, whitening(means), whitening.rank, normalize)


def _prepare(embeddings: Tensor, normalize: bool) -> Tensor:
    """Return the embeddings in float64, of unit length if wished; zero stays zero."""
    return torch.nn.functional.normalize(embeddings.double()) if normalize else embeddings.double()
