"""The contrastive loss with labels (Khosla et al., 2020, eq. 2); without them it is that of SimCLR."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ood_core import processes
from ood_core.interfaces import Batch, Network, Task


def contrast(anchors: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return the mean loss of this process's anchors against those of all processes.

    Of each anchor the mean, over the others of its label, of -log softmax over all others.

    Args:
        anchors: [M, D], of unit length.
        labels: int64 [M]; every label has at least two anchors.
        temperature: Of the softmax.
    """
    others, their_labels = _of_all(anchors), processes.gathered(labels)
    place = torch.arange(len(anchors), device=anchors.device) + len(anchors) * processes.rank()
    itself = torch.zeros(len(anchors), len(others), dtype=torch.bool, device=anchors.device)
    itself[torch.arange(len(anchors)), place] = True
    similarities = (anchors @ others.T / temperature).masked_fill(itself, float("-inf"))
    positives = (labels.unsqueeze(1) == their_labels) & ~itself
    losses = similarities.logsumexp(1) - similarities.masked_fill(~positives, 0).sum(1) / positives.sum(1)
    return losses.mean()


def _of_all(rows: Tensor) -> Tensor:
    """Return the rows of all processes, through which gradients flow back to each."""
    if processes.count() == 1:
        return rows
    parts = [torch.zeros_like(rows) for _ in range(processes.count())]
    parts[processes.rank()] = rows
    return processes.total_with_gradient(torch.cat(parts))


class ContrastTask(Task):
    """Draws views of one label together and pushes all others apart."""

    def __init__(self, network: Network, output: int, temperature: float, by_label: bool) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature
        self.by_label = by_label
        width = network.num_features
        self.projector = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, output))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss over both views of all images."""
        features = self.network.forward_features(torch.cat(batch.views))
        projected = self.projector(self.network.forward_head(features, pre_logits=True))
        anchors = normalize(projected.float(), dim=1)
        labels = batch.labels if self.by_label else self._numbers(batch.labels)
        return {"loss": contrast(anchors, labels.repeat(2), self.temperature)}

    def _numbers(self, labels: Tensor) -> Tensor:
        """Return a number for each image that no other image has in any process."""
        return torch.arange(len(labels), device=labels.device) + len(labels) * processes.rank()
