"""Scores of the most probable class against all others; nothing is fitted.

The scores are logarithms of the quantities that the papers compare with a threshold: they order images alike, and have
no ties where probabilities round to 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ood_core.interfaces import FormulaScorer, Outputs, PositiveFloat, ScorerInfo
from ood_logits.rows import softmax_parts

_DOCTOR = "Granese et al., 2021, DOCTOR: A simple method for detecting misclassification errors"


@dataclass(frozen=True, kw_only=True)
class Softmax(FormulaScorer):
    """Maximum softmax probability (Hendrycks and Gimpel, 2017).

    Orders like -max_j p_j and has no ties where that rounds to -1.
    """

    name = "softmax"
    needs = frozenset({"logits"})
    info = ScorerInfo(
        paper="Hendrycks and Gimpel, 2017, A baseline for detecting misclassified and out-of-distribution examples",
        formula="log(1 − max_j p_j)",
        score="C",
    )

    def score(self, outputs: Outputs) -> Tensor:
        return softmax_parts(outputs.logits).log_rest


@dataclass(frozen=True, kw_only=True)
class MaxLogit(FormulaScorer):
    """Maximum logit (Hendrycks et al., 2022)."""

    name = "max-logit"
    needs = frozenset({"logits"})
    info = ScorerInfo(
        paper="Hendrycks et al., 2022, Scaling out-of-distribution detection for real-world settings",
        formula="−max_j z_j",
        score="C",
    )

    def score(self, outputs: Outputs) -> Tensor:
        return -outputs.logits.amax(1).double()


@dataclass(frozen=True, kw_only=True)
class Margin(FormulaScorer):
    """Difference of the two largest softmax probabilities (Scheffer et al., 2001).

    Orders like -(p_1 - p_2) and has no ties where that rounds to -1. In active learning: margin sampling.
    """

    name = "margin"
    needs = frozenset({"logits"})
    info = ScorerInfo(
        paper="Scheffer et al., 2001, Active hidden Markov models for information extraction",
        formula="log(1 − (p₍₁₎ − p₍₂₎))",
        score="C",
    )

    def score(self, outputs: Outputs) -> Tensor:
        parts = softmax_parts(outputs.logits, summary=lambda q, _: q.amax(1))
        # 1 - p_1 + p_2 = (1 - p_1) (1 + q_2), with q_2 the share that the second has of what the first leaves
        return parts.log_rest + parts.summary.log1p()


@dataclass(frozen=True, kw_only=True)
class DoctorAlpha(FormulaScorer):
    """Odds that two draws from the softmax probabilities differ (DOCTOR, Granese et al., 2021).

    The paper's perturbation of the input is left out.

    Attributes:
        temperature: T of the softmax; 1 in the authors' code where nothing but the probabilities is known.
    """

    name = "doctor-alpha"
    needs = frozenset({"logits"})
    info = ScorerInfo(paper=_DOCTOR, formula="log((1 − g) / g),  g = Σ_j p_j²", score="C")

    temperature: PositiveFloat = 1.0

    def score(self, outputs: Outputs) -> Tensor:
        parts = softmax_parts(outputs.logits, self.temperature, lambda q, _: q.square().sum(1))
        rest, top = parts.log_rest.exp(), parts.log_top.exp()
        # 1 - g = 1 - top^2 - rest^2 s = rest (2 - rest - rest s), s the sum of squares among the others
        unequal = parts.log_rest + (2 - rest * (1 + parts.summary)).log()
        return unequal - (top.square() + rest.square() * parts.summary).log()


@dataclass(frozen=True, kw_only=True)
class DoctorBeta(FormulaScorer):
    """Odds that the prediction is wrong (DOCTOR, Granese et al., 2021).

    At temperature 1 it ranks images as `softmax` does.

    Attributes:
        temperature: T of the softmax; 1 in the authors' code where nothing but the probabilities is known.
    """

    name = "doctor-beta"
    needs = frozenset({"logits"})
    info = ScorerInfo(paper=_DOCTOR, formula="log((1 − max_j p_j) / max_j p_j)", score="C")

    temperature: PositiveFloat = 1.0

    def score(self, outputs: Outputs) -> Tensor:
        parts = softmax_parts(outputs.logits, self.temperature)
        return parts.log_rest - parts.log_top
