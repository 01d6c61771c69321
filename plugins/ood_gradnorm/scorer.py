"""GradNorm (Huang et al., 2021) in closed form, for every row at once and without a backward pass.

The loss of an image is the cross-entropy of softmax(z / T) with a target that has the same mass at each of C classes.
Its gradient at the weight is an outer product: the gradient at the logits, mass / T (p - 1/C), times the embedding.
So the sum of its absolute entries is the product of the two sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ood_core.errors import OODError
from ood_core.interfaces import Outputs, PositiveFloat, Score, Scorer


@dataclass(frozen=True)
class NegativeGradientNorm(Score):
    """Minus the L1 norm of the gradient, at most 0; confident predictions from large embeddings have a large norm."""

    temperature: float
    mass: float

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the score [N]."""
        probabilities = (outputs.logits.double() / self.temperature).softmax(1)
        imbalance = (probabilities - 1 / outputs.logits.shape[1]).abs().sum(1)
        return -self.mass / self.temperature * imbalance * outputs.embeddings.double().abs().sum(1)


@dataclass(frozen=True, kw_only=True)
class GradNorm(Scorer):
    """L1 norm of the gradient at the classifier's weight, of the divergence from uniform (Huang et al., 2021).

    Attributes:
        temperature: T; 1 in the paper.
        target: "uniform" puts 1/C on every class, as the paper writes it; "ones" puts 1, as its published code does.
            The ranking is the same, the scores of "ones" are C times larger.
    """

    name = "gradnorm"
    needs = frozenset({"embeddings", "logits"})
    scores = NegativeGradientNorm

    temperature: PositiveFloat = 1.0
    target: Literal["uniform", "ones"] = "uniform"

    def fit(self, train: Outputs) -> NegativeGradientNorm:
        """Return the score.

        Raises:
            OODError: There are no logits.
        """
        classes = train.logits.shape[1]
        if not classes:
            raise OODError(f"scorer '{self.name}' needs logits, and no training stage gives the network a classifier")
        return NegativeGradientNorm(self.temperature, mass=float(classes) if self.target == "ones" else 1.0)
