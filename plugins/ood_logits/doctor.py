"""DOCTOR (Granese et al., 2021): how likely the prediction is wrong, from its softmax probabilities alone.

The paper rejects an image where a ratio exceeds a threshold. The scores are the logarithms of these ratios, which
order images alike and have no ties where probabilities round to 1. Perturbing the input is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ood_core.interfaces import Outputs, PositiveFloat, Score, Scorer, ScorerInfo
from ood_logits.rows import peaks

_PAPER = "Granese et al., 2021, DOCTOR: A simple method for detecting misclassification errors"


@dataclass(frozen=True)
class CollisionOdds(Score):
    """log((1 - g) / g), g the sum of squared probabilities."""

    temperature: float

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the score [N]."""
        found = peaks(outputs.logits, self.temperature, _collision)
        rest, top = found.log_rest.exp(), found.log_top.exp()
        # 1 - g = 1 - top^2 - rest^2 s = rest (2 - rest - rest s), s the sum of squares among the others
        unequal = found.log_rest + (2 - rest * (1 + found.summary)).log()
        return unequal - (top.square() + rest.square() * found.summary).log()


def _collision(q: Tensor, _logits: Tensor) -> Tensor:
    return q.square().sum(1)


@dataclass(frozen=True, kw_only=True)
class DoctorAlpha(Scorer):
    """Odds that two draws from the softmax probabilities differ (Granese et al., 2021).

    score = log((1 - g) / g) with g = sum_j p_j^2.

    Attributes:
        temperature: T of the softmax; 1 in the authors' code where nothing but the probabilities is known.
    """

    name = "doctor-alpha"
    needs = frozenset({"logits"})
    scores = CollisionOdds
    info = ScorerInfo(paper=_PAPER, formula="log((1 − g) / g),  g = Σ_j p_j²", fit="none", score="C")

    temperature: PositiveFloat = 1.0

    def fit(self, train: Outputs) -> CollisionOdds:
        """Return the score."""
        return CollisionOdds(self.temperature)


@dataclass(frozen=True)
class ErrorOdds(Score):
    """log((1 - p_max) / p_max)."""

    temperature: float

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the score [N]."""
        found = peaks(outputs.logits, self.temperature)
        return found.log_rest - found.log_top


@dataclass(frozen=True, kw_only=True)
class DoctorBeta(Scorer):
    """Odds that the prediction is wrong (Granese et al., 2021).

    score = log((1 - max_j p_j) / max_j p_j). At temperature 1 it ranks images as `softmax` does.

    Attributes:
        temperature: T of the softmax; 1 in the authors' code where nothing but the probabilities is known.
    """

    name = "doctor-beta"
    needs = frozenset({"logits"})
    scores = ErrorOdds
    info = ScorerInfo(paper=_PAPER, formula="log((1 − max_j p_j) / max_j p_j)", fit="none", score="C")

    temperature: PositiveFloat = 1.0

    def fit(self, train: Outputs) -> ErrorOdds:
        """Return the score."""
        return ErrorOdds(self.temperature)
