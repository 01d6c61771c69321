"""How much the most probable class stands out; nothing is fitted."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ood_core.interfaces import Outputs, Score, Scorer, ScorerInfo
from ood_logits.rows import peaks


@dataclass(frozen=True)
class SoftmaxScore(Score):
    """log(1 - p_max), at most 0."""

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the score [N]."""
        return peaks(outputs.logits).log_rest


@dataclass(frozen=True, kw_only=True)
class Softmax(Scorer):
    """Maximum softmax probability (Hendrycks and Gimpel, 2017).

    score = log(1 - max_j p_j), which orders like -max_j p_j and has no ties where that rounds to -1.
    """

    name = "softmax"
    needs = frozenset({"logits"})
    scores = SoftmaxScore
    info = ScorerInfo(
        paper="Hendrycks and Gimpel, 2017, A baseline for detecting misclassified and out-of-distribution examples",
        formula="log(1 − max_j p_j)",
        fit="none",
        score="C",
    )

    def fit(self, train: Outputs) -> SoftmaxScore:
        """Return the score."""
        return SoftmaxScore()


@dataclass(frozen=True)
class NegativeMaxLogit(Score):
    """-z_max."""

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the score [N]."""
        return -outputs.logits.amax(1).double()


@dataclass(frozen=True, kw_only=True)
class MaxLogit(Scorer):
    """Maximum logit (Hendrycks et al., 2022).

    score = -max_j z_j.
    """

    name = "max-logit"
    needs = frozenset({"logits"})
    scores = NegativeMaxLogit
    info = ScorerInfo(
        paper="Hendrycks et al., 2022, Scaling out-of-distribution detection for real-world settings",
        formula="−max_j z_j",
        fit="none",
        score="C",
    )

    def fit(self, train: Outputs) -> NegativeMaxLogit:
        """Return the score."""
        return NegativeMaxLogit()


@dataclass(frozen=True)
class MarginScore(Score):
    """log(1 - (p_1 - p_2)), at most 0."""

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the score [N]."""
        found = peaks(outputs.logits, summary=_largest)
        # 1 - p_1 + p_2 = (1 - p_1) (1 + q_2), with q_2 the share that the second has of what the first leaves
        return found.log_rest + found.summary.log1p()


def _largest(q: Tensor, _logits: Tensor) -> Tensor:
    return q.amax(1)


@dataclass(frozen=True, kw_only=True)
class Margin(Scorer):
    """Difference of the two largest softmax probabilities (Scheffer et al., 2001).

    score = log(1 - (p_1 - p_2)), which orders like -(p_1 - p_2) and has no ties where that rounds to -1. It comes from
    active learning, where it is known as margin sampling.
    """

    name = "margin"
    needs = frozenset({"logits"})
    scores = MarginScore
    info = ScorerInfo(
        paper="Scheffer et al., 2001, Active hidden Markov models for information extraction",
        formula="log(1 − (p₍₁₎ − p₍₂₎))",
        fit="none",
        score="C",
    )

    def fit(self, train: Outputs) -> MarginScore:
        """Return the score."""
        return MarginScore()
