"""Mahalanobis distance to the nearest class mean, or to the mean of all training images.

The distance is the Euclidean one after whitening, so scoring is a search for the nearest of a few points. Statistics
are taken in float64 and in one pass over the training outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ood_core.interfaces import Outputs, PositiveInt, Score, Scorer, ScorerInfo
from ood_core.neighbors import nearest
from ood_core.statistics import Estimator, Whitening, covariance, moments
from ood_mahalanobis.preparation import Share, prepare, prepared, unlabelled


@dataclass(frozen=True)
class MahalanobisDistance(Score):
    """Squared distance to the nearest of the whitened means.

    Attributes:
        whitening: Of the covariance.
        means: [K, rank], whitened.
        rank: Directions in which the training embeddings vary; the others are ignored.
        normalize: Whether embeddings are scaled to unit length first.
    """

    whitening: Whitening
    means: Tensor
    rank: int
    normalize: bool

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the score [N]."""
        return nearest(self.whitening(prepare(outputs.embeddings, self.normalize)), self.means)[0]


@dataclass(frozen=True, kw_only=True)
class Mahalanobis(Scorer):
    """Distance to the nearest class mean under the covariance that all classes share (Lee et al., 2018).

    score = min_c (f - mu_c)^T S^-1 (f - mu_c), S = 1/N sum of (f - mu_y)(f - mu_y)^T over the training images.

    Attributes:
        normalize: Scale embeddings to unit length first.
        covariance: How S is estimated: "empirical" as in the authors' code, shrunk by "ledoit-wolf" or "oas", or
            "diagonal".
        directions: Keep only so many directions, those of the largest variances; null, as there, keeps all.
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
        """Return the distance; classes without a training image have no mean to be near to.

        Raises:
            OODError: Labels or embeddings are unusable.
        """
        found = moments(prepared(train, self.normalize), train.classes)
        estimate = covariance(found, self.covariance, prepared(train, self.normalize))
        whitening = Whitening.of(found.mean, estimate, self.cutoff, self.directions)
        return _distance(whitening, found.means[found.counts > 0], self.normalize)


@dataclass(frozen=True, kw_only=True)
class GlobalMahalanobis(Scorer):
    """Distance to the mean of all training images under their covariance, without labels (Li et al., 2023).

    score = (f - mu)^T S^-1 (f - mu), S = 1/N sum of (f - mu)(f - mu)^T; what the released code of MOOD computes.

    Attributes:
        normalize: Scale embeddings to unit length first, as in the released code of MOOD.
        covariance: How S is estimated: "empirical" as there, shrunk by "ledoit-wolf" or "oas", or "diagonal".
        directions: Keep only so many directions, those of the largest variances; null keeps all.
        cutoff: Directions with at most this share of the largest variance are ignored.
    """

    name = "mahalanobis-global"
    needs = frozenset({"embeddings"})
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
        """Return the distance.

        Raises:
            OODError: The embeddings are unusable.
        """
        found = moments(unlabelled(train, self.normalize), classes=1)
        estimate = covariance(found, self.covariance, unlabelled(train, self.normalize))
        whitening = Whitening.of(found.mean, estimate, self.cutoff, self.directions)
        return _distance(whitening, found.means, self.normalize)


def _distance(whitening: Whitening, means: Tensor, normalize: bool) -> MahalanobisDistance:
    return MahalanobisDistance(whitening, whitening(means), whitening.rank, normalize)


@dataclass(frozen=True)
class RelativeDistance(Score):
    """The distance to the nearest class less the distance to all training images.

    Attributes:
        near: To the class means, under the covariance within classes.
        background: To the mean of all, under the covariance of all.
    """

    near: MahalanobisDistance
    background: MahalanobisDistance

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the score [N]."""
        return self.near(outputs) - self.background(outputs)


@dataclass(frozen=True, kw_only=True)
class RelativeMahalanobis(Scorer):
    """Distance to the nearest class mean less the distance to all training images (Ren et al., 2021).

    score = min_c (f - mu_c)^T S^-1 (f - mu_c) - (f - mu)^T S0^-1 (f - mu), S within classes, S0 of all images. Constant
    where there is one class.

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
        notes=(
            "embeddings as they are, as in OpenOOD; the notebook of Fort et al., 2021, which has this score, centres "
            "them and scales them to unit length"
        ),
    )

    normalize: bool = False
    cutoff: Share = 1e-10

    def fit(self, train: Outputs) -> RelativeDistance:
        """Return the difference of distances; one pass gives both.

        Raises:
            OODError: Labels or embeddings are unusable.
        """
        found = moments(prepared(train, self.normalize), train.classes)
        within = Whitening.of(found.mean, found.tied_covariance, self.cutoff)
        whole = Whitening.of(found.mean, found.covariance, self.cutoff)
        return RelativeDistance(
            _distance(within, found.means[found.counts > 0], self.normalize),
            _distance(whole, found.mean[None], self.normalize),
        )
