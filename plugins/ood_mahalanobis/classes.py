"""Mahalanobis distance to the nearest class, each under a covariance of its own."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ood_core.interfaces import Outputs, Score, Scorer, ScorerInfo
from ood_core.statistics import Estimator, Parts
from ood_mahalanobis.groups import Groups
from ood_mahalanobis.preparation import Share, prepare, prepared


@dataclass(frozen=True)
class ClassDistance(Score):
    """The least of the squared distances to all classes.

    Attributes:
        classes: Mean and covariance of each.
        normalize: Whether embeddings are scaled to unit length first.
    """

    classes: Groups
    normalize: bool

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the score [N]."""
        return self.classes.least(prepare(outputs.embeddings, self.normalize))


@dataclass(frozen=True, kw_only=True)
class ClassMahalanobis(Scorer):
    """Distance to the nearest class mean, each class under its own covariance (Li et al., 2023).

    score = min_c (f - mu_c)^T S_c^-1 (f - mu_c). What the released code of MOOD means by `--cc`, where it cannot run.

    Attributes:
        normalize: Scale embeddings to unit length first, as there.
        covariance: How each S_c is estimated. A class has few images, so it is shrunk by "ledoit-wolf" unless set to
            "oas", "diagonal", or "empirical" as there.
        cutoff: Directions with at most this share of the largest variance are ignored.
    """

    name = "mahalanobis-class"
    needs = frozenset({"embeddings", "labels"})
    scores = ClassDistance
    info = ScorerInfo(
        paper="Li et al., 2023, Rethinking out-of-distribution detection: Masked image modeling is all you need",
        formula="min_c (f̂ − μ_c)ᵀ Σ_c⁻¹ (f̂ − μ_c),  Σ_c of the class alone",
        fit="N D² + C D³",
        score="C D²",
        notes="covariance is a choice made here: a class has few images; MOOD's code has the empirical one",
    )

    normalize: bool = True
    covariance: Estimator = "ledoit-wolf"
    cutoff: Share = 1e-10

    def memory(self, classes: int, dimensions: int) -> int:
        """Return the size of the covariances."""
        return 8 * classes * dimensions**2

    def fit(self, train: Outputs) -> ClassDistance:
        """Return the distance; classes without a training image have no mean to be near to.

        Raises:
            OODError: Labels or embeddings are unusable.
        """

        def parts() -> Parts:
            return prepared(train, self.normalize)

        return ClassDistance(Groups.fit(parts, train.classes, self.covariance, self.cutoff), self.normalize)
