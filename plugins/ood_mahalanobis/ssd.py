"""Mahalanobis distances of standardized embeddings, without labels: SSD, and SSD with a few known OOD images."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ood_core.errors import OODError
from ood_core.interfaces import Outputs, PositiveInt, Score, Scorer, ScorerInfo
from ood_core.neighbors import kmeans, nearest
from ood_core.statistics import ClassMoments, Parts, Whitening, covariance, moments
from ood_mahalanobis.groups import FEW, Groups
from ood_mahalanobis.preparation import Share, Standardization

_LOG = logging.getLogger(__name__)

_SAMPLE = 2**18  # of the images, that clusters are looked for among


@dataclass(frozen=True)
class ClusterDistance(Score):
    """The least of the squared distances to all clusters, of standardized embeddings.

    Attributes:
        standardization: What comes first.
        clusters: Mean and covariance of each.
    """

    standardization: Standardization
    clusters: Groups

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the score [N]."""
        return self.clusters.least(self.standardization(outputs.embeddings))


@dataclass(frozen=True, kw_only=True)
class SSD(Scorer):
    """Distance to the nearest cluster of training images, without labels (Sehwag et al., 2021).

    score = min_k (g - m_k)^T S_k^-1 (g - m_k): g the embedding scaled to unit length, then to zero mean and unit
    variance in each dimension; m_k and S_k of its k-means clusters.

    Attributes:
        clusters: How many; 1 in the authors' code.
        seed: Draws the first centroids.
        cutoff: Directions with at most this share of the largest variance are ignored.
    """

    name = "ssd"
    needs = frozenset({"embeddings"})
    scores = ClusterDistance
    info = ScorerInfo(
        paper="Sehwag, Chiang and Mittal, 2021, SSD: A unified framework for self-supervised outlier detection",
        formula="min_k (g − m_k)ᵀ S_k⁻¹ (g − m_k),  g = standardized f / ‖f‖, k-means clusters k",
        fit="N D² + k D³",
        score="k D²",
        notes=(
            "OpenOOD has neither unit length nor standardisation, reads the first layer, and perturbs images by 0.0014"
        ),
    )

    clusters: PositiveInt = 1
    seed: int = 0
    cutoff: Share = 1e-10

    def memory(self, classes: int, dimensions: int) -> int:
        """Return the size of the covariances."""
        return 8 * self.clusters * dimensions**2

    def fit(self, train: Outputs) -> ClusterDistance:
        """Return the distance; clusters are looked for among at most 2^18 of the images, which are in memory then.

        Raises:
            OODError: There are fewer images than clusters, or embeddings are unusable.
        """
        standardization = Standardization.of(train)
        centroids = None if self.clusters == 1 else _centroids(train, standardization, self.clusters, self.seed)

        def parts() -> Parts:
            for part in train.chunks():
                rows = standardization(part.embeddings)
                yield rows, torch.zeros_like(part.labels) if centroids is None else nearest(rows, centroids)[1]

        return ClusterDistance(standardization, Groups.fit(parts, self.clusters, "empirical", self.cutoff))


def _centroids(train: Outputs, standardization: Standardization, clusters: int, seed: int) -> Tensor:
    step = math.ceil(len(train) / _SAMPLE)
    sample = torch.cat([standardization(part.embeddings[::step]).float() for part in train.chunks()])
    return kmeans(sample, clusters, seed, iterations=100)  # as in the released code


@dataclass(frozen=True)
class DistanceDifference(Score):
    """The distance to the ID images less the distance to the known OOD images.

    Attributes:
        standardization: What comes first.
        inside: Mean and covariance of the ID training images.
        outside: Mean and covariance of the known OOD images.
    """

    standardization: Standardization
    inside: Whitening
    outside: Whitening

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the score [N]."""
        rows = self.standardization(outputs.embeddings)
        return self.inside(rows).square().sum(1) - self.outside(rows).square().sum(1)


@dataclass(frozen=True, kw_only=True)
class FewShotSSD(Scorer):
    """Distance to the training images less the distance to a few known OOD images (Sehwag et al., 2021).

    score = (g - m)^T S^-1 (g - m) - (g - m_o)^T S_o^-1 (g - m_o), both covariances by Ledoit-Wolf, g as in `ssd`. The
    authors' code adds augmented copies of the known images; give them to the recipe if you want them.
    """

    name = "ssd-k"
    needs = frozenset({"embeddings", "known_ood"})
    scores = DistanceDifference
    info = ScorerInfo(
        paper="Sehwag, Chiang and Mittal, 2021, SSD: A unified framework for self-supervised outlier detection",
        formula="(g − m)ᵀ S⁻¹ (g − m) − (g − m_o)ᵀ S_o⁻¹ (g − m_o),  o: the known OOD images",
        fit="N D² + D³",
        score="D²",
    )

    def fit(self, train: Outputs) -> DistanceDifference:
        """Return the difference.

        Raises:
            OODError: There are no known OOD images, or embeddings are unusable.
        """
        if train.known_ood is None:
            raise OODError(f"scorer '{self.name}' needs known OOD images")
        standardization = Standardization.of(train)
        known, scatter = _shrunk(train, standardization)
        foreign, foreign_scatter = _shrunk(train.known_ood, standardization)
        if foreign.counts.item() < FEW or not foreign.within.any():
            _LOG.warning("too few known OOD images have a covariance; that of the training images is taken")
            foreign_scatter = scatter
        inside, outside = Whitening.of(known.mean, scatter), Whitening.of(foreign.mean, foreign_scatter)
        return DistanceDifference(standardization, inside, outside)


def _shrunk(outputs: Outputs, standardization: Standardization) -> tuple[ClassMoments, Tensor]:
    """Return the moments, and the covariance shrunk by Ledoit-Wolf."""

    def parts() -> Parts:
        for part in outputs.chunks():
            yield standardization(part.embeddings), torch.zeros_like(part.labels)

    found = moments(parts(), classes=1)
    return found, covariance(found, "ledoit-wolf", parts())
