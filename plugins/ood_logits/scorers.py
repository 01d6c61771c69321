"""How sure the classifier is, from its logits z [N, C] alone; nothing is fitted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ood_core.errors import OODError
from ood_core.interfaces import Outputs, PositiveFloat, Score, Scorer

_NO_RIVAL = -1e30  # where there is one class alone: finite, so that its score is


@dataclass(frozen=True)
class SoftmaxScore(Score):
    """log(1 - p_max), which orders like -p_max and has no ties where p_max rounds to 1; at most 0."""

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the score [N]."""
        return logsigmoid(_rivals(outputs.logits.double()))


@dataclass(frozen=True, kw_only=True)
class Softmax(Scorer):
    """Maximum softmax probability (Hendrycks and Gimpel, 2017)."""

    name = "softmax"
    needs = frozenset({"logits"})
    scores = SoftmaxScore

    def fit(self, train: Outputs) -> SoftmaxScore:
        """Return the score.

        Raises:
            OODError: There are no logits.
        """
        _require_logits(train, self.name)
        return SoftmaxScore()


@dataclass(frozen=True)
class EntropyScore(Score):
    """-sum p log p in nats, in [0, log C]."""

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the score [N]."""
        logits = outputs.logits.double()
        # -log p_max = log(1 + others / top), and -log p_j is that plus z_max - z_j: a sum of positive terms.
        surprise = _rivals(logits).exp().log1p()[:, None]
        gaps = logits.amax(1, keepdim=True) - logits
        return ((-gaps - surprise).exp() * (gaps + surprise)).sum(1)


@dataclass(frozen=True, kw_only=True)
class Entropy(Scorer):
    """Shannon entropy of the softmax probabilities."""

    name = "entropy"
    needs = frozenset({"logits"})
    scores = EntropyScore

    def fit(self, train: Outputs) -> EntropyScore:
        """Return the score.

        Raises:
            OODError: There are no logits.
        """
        _require_logits(train, self.name)
        return EntropyScore()


@dataclass(frozen=True)
class EnergyScore(Score):
    """-T log sum exp(z / T)."""

    temperature: float

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the score [N]."""
        return -self.temperature * (outputs.logits.double() / self.temperature).logsumexp(1)


@dataclass(frozen=True, kw_only=True)
class Energy(Scorer):
    """Free energy of the logits (Liu et al., 2020).

    Attributes:
        temperature: T; 1 in the paper. Towards 0 the score becomes minus the largest logit.
    """

    name = "energy"
    needs = frozenset({"logits"})
    scores = EnergyScore

    temperature: PositiveFloat = 1.0

    def fit(self, train: Outputs) -> EnergyScore:
        """Return the score.

        Raises:
            OODError: There are no logits.
        """
        _require_logits(train, self.name)
        return EnergyScore(self.temperature)


def _rivals(logits: Tensor) -> Tensor:
    """Return the log-odds of all other classes together against the most probable one, [N]; free of cancellation."""
    top, index = logits.max(1, keepdim=True)
    others = logits.scatter(1, index, -torch.inf).logsumexp(1)
    return (others - top[:, 0]).clamp(min=_NO_RIVAL)


def _require_logits(train: Outputs, scorer: str) -> None:
    if not train.logits.shape[1]:
        raise OODError(f"scorer '{scorer}' needs logits, and no training stage gives the network a classifier")
