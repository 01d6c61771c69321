"""Mahalanobis distances of standardized embeddings, without labels: SSD, and SSD with a few known OOD images."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ood_core.interfaces import Outputs, PositiveInt, Score, Scorer, ScorerInfo
from ood_core.neighbors import kmeans, nearest
from ood_core.statistics import ClassMoments, Parts, Whitening, covariance, moments
from ood_mahalanobis.groups import LEAST_ROWS, Groups
from ood_mahalanobis.preparation import Share, Standardization

_LOG = logging.getLogger(__name__)

_SAMPLE = 2**18  # at most so many images, all in memory, are clustered


@dataclass(frozen=True)
class ClusterDistance(Score):
    """Squared distance of a standardized embedding to the nearest cluster."""

    standardization: Standardization
    clusters: Groups

    def __call__(self, outputs: Outputs) -> Tensor:
        return self.clusters.nearest(self.standardization(outputs.embeddings))


@dataclass(frozen=True, kw_only=True)
class SSD(Scorer):
    """Distance to the nearest cluster of training images, without labels (Sehwag et al., 2021).

    Attributes:
        clusters: Number of clusters; 1 in the authors' code.
        seed: Draws the first centroids.
        cutoff: Directions with at most this share of the largest variance are ignored.
    """

    name = "ssd"
    scores = ClusterDistance
    info = ScorerInfo(
        paper="Sehwag, Chiang and Mittal, 2021, SSD: A unified framework for self-supervised outlier detection",
        formula="min_k (g − m_k)ᵀ S_k⁻¹ (g − m_k),  g = standardized f / ‖f‖, k-means clusters k",
        fit="N D² + k D³",
        score="k D²",
        notes="OpenOOD has neither unit length nor standardisation, reads the first layer, and perturbs images by "
        "0.0014",
    )

    clusters: PositiveInt = 1
    seed: int = 0
    cutoff: Share = 1e-10

    def memory(self, classes: int, dimensions: int) -> int:
        return 8 * self.clusters * dimensions**2

    def fit(self, train: Outputs) -> ClusterDistance:
        standardization = Standardization.of(train)
        centroids = None
        if self.clusters > 1:
            step = math.ceil(len(train) / _SAMPLE)
            sample = torch.cat([standardization(chunk.embeddings[::step]).float() for chunk in train.chunks()])
            centroids = kmeans(sample, self.clusters, self.seed, iterations=100)  # as in the released code

        def parts() -> Parts:
            for rows, zeros in standardization.chunks(train):
                yield rows, zeros if centroids is None else nearest(rows, centroids)[1]

        return ClusterDistance(standardization, Groups.fit(parts, self.clusters, "empirical", self.cutoff))


@dataclass(frozen=True)
class DistanceDifference(Score):
    """The distance to the ID images minus the distance to the known OOD images."""

    standardization: Standardization
    inside: Whitening  # of the ID training images
    outside: Whitening  # of the known OOD images

    def __call__(self, outputs: Outputs) -> Tensor:
        rows = self.standardization(outputs.embeddings)
        return self.inside(rows).square().sum(1) - self.outside(rows).square().sum(1)


@dataclass(frozen=True, kw_only=True)
class FewShotSSD(Scorer):
    """Distance to the training images minus the distance to a few known OOD images (Sehwag et al., 2021).

    Both covariances are estimated by Ledoit-Wolf, g as in `ssd`. The authors' code adds augmented copies of the known
    images, which a recipe can list as well.
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
        assert train.known_ood is not None, "known OOD images are in `needs`"
        standardization = Standardization.of(train)
        inside, covariance_inside = _estimate(train, standardization)
        outside, covariance_outside = _estimate(train.known_ood, standardization)
        if outside.counts.item() < LEAST_ROWS or not outside.within.any():
            _LOG.warning("too few known OOD images have a covariance; that of the training images is taken")
            covariance_outside = covariance_inside
        return DistanceDifference(
            standardization,
            Whitening.of(inside.mean, covariance_inside),
            Whitening.of(outside.mean, covariance_outside),
        )


def _estimate(outputs: Outputs, standardization: Standardization) -> tuple[ClassMoments, Tensor]:
    found = moments(standardization.chunks(outputs), classes=1)
    return found, covariance(found, "ledoit-wolf", standardization.chunks(outputs))
