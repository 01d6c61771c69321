"""GradNorm (Huang et al., 2021) in closed form, for every row at once and without a backward pass.

The loss of an image is the cross-entropy of softmax(z / T) with a target that has the same mass at each of C classes.
Its gradient at the weight is an outer product: the gradient at the logits, mass / T (p - 1/C), times the embedding.
So the sum of its absolute entries is the product of the two sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softshrink

from ood_core.interfaces import FormulaScorer, Outputs, PositiveFloat, ScorerInfo

_CELLS = 1 << 20  # of a block of rows that stays in the processor's caches: 4 MB
_FLAT = 0.5  # below such an excess, p - 1/C has lost digits that count


@dataclass(frozen=True, kw_only=True)
class GradNorm(FormulaScorer):
    """L1 norm of the gradient at the classifier's weight, of the divergence from uniform (Huang et al., 2021).

    Confident predictions from large embeddings have a large norm. Sums are taken in float32 where the outputs are,
    within 1e-6 of the norm that float64 gives; rows with almost uniform probabilities are done again in float64.

    Attributes:
        temperature: T; 1 in the authors' code.
        target: "uniform" puts 1/C on every class, as in the paper; "ones" puts 1, for scores that are C times larger.
    """

    name = "gradnorm"
    needs = frozenset({"embeddings", "logits"})
    info = ScorerInfo(
        paper="Huang et al., 2021, On the importance of gradients for detecting distributional shifts in the wild",
        formula="−(1/T) Σ_j |p_j − 1/C| · Σ_d |f_d|",
        score="C + D",
        notes="the authors' code and OpenOOD sum over ones (`target: ones`), which ranks alike",
    )

    temperature: PositiveFloat = 1.0
    target: Literal["uniform", "ones"] = "uniform"

    def score(self, outputs: Outputs) -> Tensor:
        logits, classes = outputs.logits, outputs.logits.shape[1]
        if torch.compiler.is_compiling():  # a graph cannot do some rows again: all are done in float64
            excess = _excess(logits.double(), self.temperature)
            return self._scaled(excess, outputs.embeddings.double().abs().sum(1), classes)
        size = max(1, _CELLS // classes)
        excess = torch.cat([_excess(block, self.temperature) for block in torch.split(logits, size)])
        length = torch.cat([block.abs().sum(1) for block in torch.split(outputs.embeddings, size)])
        flat = (excess < _FLAT).nonzero()[:, 0]
        excess = excess.double()
        for rows in torch.split(flat, size):
            excess[rows] = _excess(logits[rows].double(), self.temperature)
        return self._scaled(excess, length.double(), classes)

    def _scaled(self, excess: Tensor, length: Tensor, classes: int) -> Tensor:
        mass = float(classes) if self.target == "ones" else 1.0
        # what is above 1/C is as much as what is below
        return -mass / self.temperature * 2 * excess * length


def _excess(logits: Tensor, temperature: float) -> Tensor:
    """Return sum_j max(p_j - 1/C, 0), [B]."""
    # the differences keep all their digits if the largest logit goes first
    scaled = logits if temperature == 1 else (logits - logits.amax(1, keepdim=True)).div_(temperature)
    probabilities = scaled.softmax(1)
    # In float32 they do not quite sum to 1: with many classes, that is most of the error.
    return softshrink(probabilities, 1 / logits.shape[1]).sum(1) / probabilities.sum(1)
