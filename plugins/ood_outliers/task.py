"""Classification beside outliers, and what is asked of the logits of these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ood_core.interfaces import Batch, Network, Task

Penalty: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""From the logits of ID images [B, C] and of outliers [B', C] to a scalar."""


@dataclass(frozen=True)
class Uniformity:
    """How far the softmax of outliers is from uniform: their cross-entropy to it, less the constant part log C."""

    def __call__(self, inside: Tensor, outside: Tensor) -> Tensor:
        """Return the mean of logsumexp(z) - mean_j z_j over the outliers."""
        return (outside.logsumexp(1) - outside.mean(1)).mean()


@dataclass(frozen=True)
class Margins:
    """How far energies -logsumexp(z) are on the wrong side of a margin, squared.

    Attributes:
        inside: ID images should have at most this energy.
        outside: Outliers should have at least this.
    """

    inside: float
    outside: float

    def __call__(self, inside: Tensor, outside: Tensor) -> Tensor:
        """Return the mean over the ID images plus that over the outliers."""
        too_high = (-inside.logsumexp(1) - self.inside).relu()
        too_low = (self.outside + outside.logsumexp(1)).relu()
        return too_high.square().mean() + too_low.square().mean()


class ExposureTask(Task):
    """Cross-entropy of the ID images, and a penalty beside it for what is said of the outliers."""

    def __init__(self, network: Network, label_smoothing: float, penalty: Penalty, weight: float) -> None:
        super().__init__()
        self.network = network
        self.label_smoothing, self.penalty, self.weight = label_smoothing, penalty, weight

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss, the penalty in it before its weight, and the accuracy on the augmented ID images."""
        assert batch.outliers is not None, "the task says that it needs them"
        (images,) = batch.views
        # one pass, as in the papers: batch normalisation sees both
        inside, outside = self.network(torch.cat((images, batch.outliers))).float().tensor_split([len(images)])
        penalty = self.penalty(inside, outside)
        classification = cross_entropy(inside, batch.labels, label_smoothing=self.label_smoothing)
        return {
            "loss": classification + self.weight * penalty,
            "penalty": penalty,
            "accuracy": (inside.argmax(1) == batch.labels).float().mean(),
        }
