"""Mahalanobis distance to the nearest class, each under a covariance of its own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from ood_core.interfaces import Outputs, Score, Scorer, ScorerInfo
from ood_core.statistics import Estimator
from ood_mahalanobis.groups import Groups
from ood_mahalanobis.preparation import Share, chunks, prepare


@dataclass(frozen=True)
class ClassDistance(Score):
    """Squared distance to the nearest class."""

    classes: Groups
    normalize: bool

    def __call__(self, outputs: Outputs) -> Tensor:
        return self.classes.nearest(prepare(outputs.embeddings, self.normalize))


@dataclass(frozen=True, kw_only=True)
class ClassMahalanobis(Scorer):
    """Distance to the nearest class mean, each class under its own covariance (Li et al., 2023).

    What `--cc` stands for in the released code of MOOD, where it does not run.

    Attributes:
        normalize: Scale embeddings to unit length first, as in that code.
        covariance: Estimator of Σ_c: "ledoit-wolf", "oas", "diagonal", or "empirical" as in that code.
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
        return 8 * classes * dimensions**2

    def fit(self, train: Outputs) -> ClassDistance:
        groups = Groups.fit(partial(chunks, train, self.normalize), train.classes, self.covariance, self.cutoff)
        return ClassDistance(groups, self.normalize)
