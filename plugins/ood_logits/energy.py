"""Free energy of the logits, as it is and with weights; nothing is fitted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ood_core.errors import OODError
from ood_core.interfaces import FormulaScorer, Outputs, PositiveFloat, Score, ScorerInfo
from ood_logits.rows import blocks, softmax_parts


@dataclass(frozen=True, kw_only=True)
class Energy(FormulaScorer):
    """Free energy of the logits (Liu et al., 2020).

    Attributes:
        temperature: T; 1 in the authors' code. Towards 0 the score becomes minus the largest logit.
    """

    name = "energy"
    needs = frozenset({"logits"})
    info = ScorerInfo(
        paper="Liu et al., 2020, Energy-based out-of-distribution detection",
        formula="−T log Σ_j exp(z_j / T)",
        score="C",
    )

    temperature: PositiveFloat = 1.0

    def score(self, outputs: Outputs) -> Tensor:
        log_top = softmax_parts(outputs.logits, self.temperature).log_top
        return self.temperature * log_top - outputs.logits.amax(1).double()


@dataclass(frozen=True, kw_only=True)
class WeightedEnergy(FormulaScorer):
    """Free energy with a weight for each class (Du et al., 2022).

    VOS learns the weights in training, beside outliers that it makes up. Without any it is the energy at T = 1.

    Attributes:
        weights: One for each class, in label order; none are equal weights. Negative ones count as 0.
    """

    name = "weighted-energy"
    needs = frozenset({"logits"})
    info = ScorerInfo(
        paper="Du, Wang, Cai and Li, 2022, VOS: Learning what you don't know by virtual outlier synthesis",
        formula="−log Σ_j max(w_j, 0) exp(z_j)",
        score="C",
    )

    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.weights and max(self.weights) <= 0:
            raise ValueError("at least one of the weights must be positive")

    def fit(self, train: Outputs) -> Score:
        classes = train.logits.shape[1]
        if self.weights and len(self.weights) != classes:
            raise OODError(f"scorer '{self.name}' needs {classes} weights, one a class, not {len(self.weights)}")
        return self

    def score(self, outputs: Outputs) -> Tensor:
        weights = torch.tensor(self.weights or [1.0] * outputs.logits.shape[1], dtype=torch.float64)
        log_weights = weights.clamp(min=0).log()
        return torch.cat([-(block.double() + log_weights).logsumexp(1) for block in blocks(outputs.logits)])
