"""Free energy of the logits; nothing is fitted."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ood_core.interfaces import Card, Outputs, PositiveFloat, Score, Scorer
from ood_logits.rows import peaks, require_logits


@dataclass(frozen=True)
class EnergyScore(Score):
    """-T log sum exp(z / T)."""

    temperature: float

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the score [N]."""
        log_top = peaks(outputs.logits, self.temperature).log_top
        return self.temperature * log_top - outputs.logits.amax(1).double()


@dataclass(frozen=True, kw_only=True)
class Energy(Scorer):
    """Free energy of the logits (Liu et al., 2020).

    score = -T log sum_j exp(z_j / T) = T log p_max - max_j z_j, with p at temperature T.

    Attributes:
        temperature: T; 1 in the paper. Towards 0 the score becomes minus the largest logit.
    """

    name = "energy"
    needs = frozenset({"logits"})
    scores = EnergyScore
    card = Card(
        paper="Liu et al., 2020, Energy-based out-of-distribution detection",
        formula="−T log Σ_j exp(z_j / T)",
        fit="none",
        score="C",
    )

    temperature: PositiveFloat = 1.0

    def fit(self, train: Outputs) -> EnergyScore:
        """Return the score.

        Raises:
            OODError: There are no logits.
        """
        require_logits(train, self.name)
        return EnergyScore(self.temperature)
