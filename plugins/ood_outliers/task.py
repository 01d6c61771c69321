"""Classification of ID images, with a penalty on the logits of outliers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ood_core.interfaces import Batch, Network, Task

Penalty: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""From the logits of ID images [B, C] and of outliers [B', C] to a scalar."""


def penalize_confidence(inside: Tensor, outside: Tensor) -> Tensor:
    """Return the outliers' cross-entropy to uniform, less the constant part log C: mean logsumexp(z) - mean_j z_j."""
    return (outside.logsumexp(1) - outside.mean(1)).mean()


def penalize_energies(inside: Tensor, outside: Tensor, margin_id: float, margin_ood: float) -> Tensor:
    """Return the squared hinges of energies -logsumexp(z) above `margin_id` for ID images, below `margin_ood` else."""
    too_high = (-inside.logsumexp(1) - margin_id).relu()
    too_low = (margin_ood + outside.logsumexp(1)).relu()
    return too_high.square().mean() + too_low.square().mean()


class ExposureTask(Task):
    """Cross-entropy of the ID images, plus a weighted penalty."""

    def __init__(self, network: Network, label_smoothing: float, penalty: Penalty, weight: float) -> None:
        super().__init__()
        self.network = network
        self.label_smoothing, self.penalty, self.weight = label_smoothing, penalty, weight

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss, the unweighted penalty, and the accuracy on the augmented ID images."""
        assert batch.outliers is not None, "the pretext has `auxiliary_images`"
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
