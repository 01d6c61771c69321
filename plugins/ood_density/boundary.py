"""One-class support vector machine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt, Lt
from torch import Tensor

from ood_core.interfaces import NonNegativeInt, Outputs, PositiveFloat, PositiveInt, Score, Scorer, ScorerInfo
from ood_density.sample import sample_embeddings

_CHUNK_NUMBERS = 2**23  # size of the distance matrix that is in memory at a time


@dataclass(frozen=True)
class KernelSurprise(Score):
    """log ρ - log sum_i α_i exp(-γ |f - s_i|^2); positive outside of the boundary.

    Ranks like the decision function ρ - sum_i α_i exp(...), whose far values are all ρ.
    """

    vectors: Tensor  # [S, D], the support vectors, centred
    log_weights: Tensor  # [S], log α
    centre: Tensor  # [D]
    gamma: float  # γ
    log_offset: float  # log ρ

    def __call__(self, outputs: Outputs) -> Tensor:
        norms, scores = self.vectors.square().sum(1), []
        for chunk in outputs.chunks(max(1, _CHUNK_NUMBERS // len(self.vectors))):
            embeddings = chunk.embeddings.double() - self.centre
            squares = embeddings.square().sum(1, keepdim=True) + norms - 2 * embeddings @ self.vectors.T
            scores.append((self.log_weights - self.gamma * squares.clamp(min=0)).logsumexp(1))
        return self.log_offset - torch.cat(scores)


@dataclass(frozen=True, kw_only=True)
class OneClassSvm(Scorer):
    """One-class support vector machine with a Gaussian kernel (Schölkopf et al., 2001).

    Attributes:
        nu: Upper bound of the share of training images outside, lower bound of that of support vectors.
        gamma: γ; None takes two over the mean squared distance of two training embeddings, "scale" for centred data.
        sample: Maximum number of training images, drawn at random; time grows with its square.
        seed: Draws the sample.
    """

    name = "one-class-svm"
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
        from sklearn.svm import OneClassSVM

        rows = sample_embeddings(train, self.sample, self.seed, self.name).double()
        centre = rows.mean(0)
        rows = rows - centre
        gamma = self.gamma or 1 / (rows.shape[1] * rows.var(correction=0).item() or 1.0)
        svm = OneClassSVM(gamma=gamma, nu=self.nu).fit(rows.numpy())
        weights = torch.from_numpy(svm.dual_coef_[0])
        vectors = rows[torch.from_numpy(svm.support_).long()]
        return KernelSurprise(vectors, weights.log(), centre, gamma, math.log(svm.offset_[0]))
