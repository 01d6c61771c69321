"""Mahalanobis distance to the nearest class mean, or to the mean of all training images.

It is the Euclidean distance after whitening, so scoring searches for the nearest of a few points. Statistics are
computed in float64 and in one pass over the training outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ood_core.interfaces import Outputs, PositiveInt, Score, Scorer, ScorerInfo
from ood_core.neighbors import nearest
from ood_core.statistics import Estimator, Whitening, covariance, moments
from ood_mahalanobis.preparation import Share, chunks, chunks_as_one_class, prepare


@dataclass(frozen=True)
class MahalanobisDistance(Score):
    """Squared distance to the nearest of the whitened means."""

    whitening: Whitening
    means: Tensor  # [K, rank], whitened
    rank: int  # of the whitening, for the report
    normalize: bool

    @classmethod
    def to_means(cls, means: Tensor, whitening: Whitening, normalize: bool) -> MahalanobisDistance:
        """Return the distance to the nearest of the means [K, D]."""
        return cls(whitening, whitening(means), whitening.rank, normalize)

    def __call__(self, outputs: Outputs) -> Tensor:
        return nearest(self.whitening(prepare(outputs.embeddings, self.normalize)), self.means)[0]


@dataclass(frozen=True, kw_only=True)
class Mahalanobis(Scorer):
    """Distance to the nearest class mean under the covariance that all classes share (Lee et al., 2018).

    Attributes:
        normalize: Scale embeddings to unit length first.
        covariance: Estimator of Σ: "empirical" as in the authors' code, shrunk by "ledoit-wolf" or "oas", "diagonal".
        directions: Number of principal components to keep; null, as in the authors' code, keeps all.
        cutoff: Directions with at most this share of the largest variance are ignored.
    """

    name = "mahalanobis"
    needs = frozenset({"embeddings", "labels"})
    scores = MahalanobisDistance
    info = ScorerInfo(
        paper="Lee et al., 2018, A simple unified framework for detecting out-of-distribution samples",
        formula="min_c (f − μ_c)ᵀ Σ⁻¹ (f − μ_c),  Σ within classes",
        fit="N D² + D³",
        score="D² + C D",
        notes="of the embedding alone, as OpenOOD's `mds`; the authors add layers and a step of the image",
    )

    normalize: bool = False
    covariance: Estimator = "empirical"
    directions: PositiveInt | None = None
    cutoff: Share = 1e-10

    def fit(self, train: Outputs) -> MahalanobisDistance:
        found = moments(chunks(train, self.normalize), train.classes)
        estimate = covariance(found, self.covariance, chunks(train, self.normalize))
        whitening = Whitening.of(found.mean, estimate, self.cutoff, self.directions)
        return MahalanobisDistance.to_means(found.means[found.counts > 0], whitening, self.normalize)


@dataclass(frozen=True, kw_only=True)
class GlobalMahalanobis(Scorer):
    """Distance to the mean of all training images under their covariance, without labels (Li et al., 2023).

    Attributes:
        normalize: Scale embeddings to unit length first, as in the released code of MOOD.
        covariance: Estimator of Σ: "empirical" as in that code, shrunk by "ledoit-wolf" or "oas", "diagonal".
        directions: Number of principal components to keep; null keeps all.
        cutoff: Directions with at most this share of the largest variance are ignored.
    """

    name = "mahalanobis-global"
    scores = MahalanobisDistance
    info = ScorerInfo(
        paper="Li et al., 2023, Rethinking out-of-distribution detection: Masked image modeling is all you need",
        formula="(f̂ − μ)ᵀ Σ⁻¹ (f̂ − μ),  f̂ = f / ‖f‖, Σ of all images",
        fit="N D² + D³",
        score="D²",
    )

    normalize: bool = True
    covariance: Estimator = "empirical"
    directions: PositiveInt | None = None
    cutoff: Share = 1e-10

    def fit(self, train: Outputs) -> MahalanobisDistance:
        found = moments(chunks_as_one_class(train, self.normalize), classes=1)
        estimate = covariance(found, self.covariance, chunks_as_one_class(train, self.normalize))
        whitening = Whitening.of(found.mean, estimate, self.cutoff, self.directions)
        return MahalanobisDistance.to_means(found.means, whitening, self.normalize)


@dataclass(frozen=True)
class RelativeDistance(Score):
    """The distance to the nearest class minus the distance to all training images."""

    near: MahalanobisDistance  # to the class means, under the covariance within classes
    background: MahalanobisDistance  # to the mean of all, under the covariance of all

    def __call__(self, outputs: Outputs) -> Tensor:
        return self.near(outputs) - self.background(outputs)


@dataclass(frozen=True, kw_only=True)
class RelativeMahalanobis(Scorer):
    """Distance to the nearest class mean minus the distance to all training images (Ren et al., 2021).

    Constant if there is one class.

    Attributes:
        normalize: Scale embeddings to unit length first; OpenOOD does not.
        cutoff: Directions with at most this share of the largest variance are ignored.
    """

    name = "relative-mahalanobis"
    needs = frozenset({"embeddings", "labels"})
    scores = RelativeDistance
    info = ScorerInfo(
        paper="Ren et al., 2021, A simple fix to Mahalanobis distance for improving near-OOD detection",
        formula="min_c (f − μ_c)ᵀ Σ⁻¹ (f − μ_c) − (f − μ)ᵀ Σ₀⁻¹ (f − μ),  Σ within classes, Σ₀ of all",
        fit="N D² + D³",
        score="D² + C D",
        notes="embeddings as they are, as in OpenOOD; the notebook of Fort et al., 2021, which has this score, "
        "centres them and scales them to unit length",
    )

    normalize: bool = False
    cutoff: Share = 1e-10

    def fit(self, train: Outputs) -> RelativeDistance:
        found = moments(chunks(train, self.normalize), train.classes)
        within = Whitening.of(found.mean, found.tied_covariance, self.cutoff)
        whole = Whitening.of(found.mean, found.covariance, self.cutoff)
        return RelativeDistance(
            MahalanobisDistance.to_means(found.means[found.counts > 0], within, self.normalize),
            MahalanobisDistance.to_means(found.mean[None], whole, self.normalize),
        )
