"""The boundary around most of the training embeddings that a one-class support vector machine finds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Gt, Lt
from torch import Tensor

from ood_core.interfaces import NonNegativeInt, Outputs, PositiveFloat, PositiveInt, Score, Scorer, ScorerInfo
from ood_density.sample import draw

_NUMBERS = 2**23  # of the matrix of distances that is in memory at a time


@dataclass(frozen=True)
class KernelSurprise(Score):
    """log ρ - log sum_i α_i exp(-γ |f - s_i|^2); positive outside of the boundary.

    It orders like ρ - sum_i α_i exp(...), without the ties of embeddings that are so far away that the sum is 0.

    Attributes:
        vectors: [S, D], the support vectors, centred.
        log_weights: [S], log α.
        centre: [D].
        gamma: γ.
        log_offset: log ρ.
    """

    vectors: Tensor
    log_weights: Tensor
    centre: Tensor
    gamma: float
    log_offset: float

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the score [N]."""
        rows = max(1, _NUMBERS // len(self.vectors))
        lengths = self.vectors.square().sum(1)
        parts = []
        for part in outputs.chunks(rows):
            embeddings = part.embeddings.double() - self.centre
            squares = embeddings.square().sum(1, keepdim=True) + lengths - 2 * embeddings @ self.vectors.T
            parts.append((self.log_weights - self.gamma * squares.clamp(min=0)).logsumexp(1))
        return self.log_offset - torch.cat(parts)


@dataclass(frozen=True, kw_only=True)
class OneClassSvm(Scorer):
    """One-class support vector machine with a Gaussian kernel (Schölkopf et al., 2001).

    The boundary is sum_i α_i exp(-γ |f - s_i|^2) = ρ; the score is the log of the right side over the left one, which
    ranks like their difference.

    Attributes:
        nu: Bound for the share of training images outside of the boundary, and for that of support vectors from below;
            0.5 is scikit-learn's.
        gamma: γ; None takes two over the mean squared distance of two training embeddings. That is scikit-learn's
            "scale" for centred data; of other data it would depend on the offset.
        sample: At most so many training images are fitted to, drawn at random; time grows with their square.
        seed: Draws the sample.
    """

    name = "one-class-svm"
    needs = frozenset({"embeddings"})
    scores = KernelSurprise
    info = ScorerInfo(
        paper="Schölkopf, Platt, Shawe-Taylor, Smola and Williamson, 2001, Estimating the support of a "
        "high-dimensional distribution",
        formula="log ρ - log Σ_i α_i exp(-γ ‖f - s_i‖²)",
        fit="N² D of at most 10 000 rows",
        score="S D, S ≥ ν N support vectors",
        notes="nu and gamma are scikit-learn's",
    )

    nu: Annotated[float, Gt(0), Lt(1)] = 0.5
    gamma: PositiveFloat | None = None
    sample: PositiveInt = 10_000
    seed: NonNegativeInt = 0

    def fit(self, train: Outputs) -> KernelSurprise:
        """Return the score.

        Raises:
            OODError: Embeddings are unusable.
        """
        rows = draw(train, self.sample, self.seed, self.name).double()
        centre = rows.mean(0)
        rows = rows - centre
        gamma = self.gamma or 1 / (rows.shape[1] * rows.var(correction=0).item() or 1.0)
        found = self._estimate(rows, gamma)
        weights = torch.from_numpy(found.dual_coef_[0])
        vectors = rows[torch.from_numpy(found.support_).long()]
        return KernelSurprise(vectors, weights.log(), centre, gamma, math.log(found.offset_[0]))

    def _estimate(self, rows: Tensor, gamma: float) -> Any:
        from sklearn.svm import OneClassSVM

        return OneClassSVM(gamma=gamma, nu=self.nu).fit(rows.numpy())
