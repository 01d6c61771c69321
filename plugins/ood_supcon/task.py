"""The contrastive loss of Khosla et al. (2020), eq. 2; where every image is its own class, that of SimCLR."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ood_core.interfaces import Batch, Network, Task
from ood_core.interfaces.building_blocks import tiled
from ood_core.runtime import distributed

Grouping: TypeAlias = Callable[[Batch], Tensor]
"""int64 [B]: images of the same number are alike, in all processes."""


def by_class(batch: Batch) -> Tensor:
    """Return the class of each image."""
    return batch.labels


def by_image(batch: Batch) -> Tensor:
    """Return a number for each image that no other image of the step has."""
    return _places(batch.labels)


def contrast(anchors: Tensor, groups: Tensor, temperature: float) -> Tensor:
    """Return the mean loss of this process's anchors against those of all processes.

    Of each anchor the mean, over the others of its group, of -log softmax over all others.

    Args:
        anchors: [M, D], of unit length.
        groups: int64 [M]; every group has at least two anchors.
        temperature: Of the softmax.
    """
    everyone, their_groups = _all_gather(anchors), distributed.all_gather(groups)
    itself = _places(anchors).unsqueeze(1) == torch.arange(len(everyone), device=anchors.device)
    positives = (groups.unsqueeze(1) == their_groups) & ~itself
    similarities = anchors @ everyone.T / temperature
    totals = similarities.masked_fill(itself, float("-inf")).logsumexp(1)
    return (totals - (similarities * positives).sum(1) / positives.sum(1)).mean()


def _places(rows: Tensor) -> Tensor:
    """Return where each row stands among those of all processes, [B]."""
    return torch.arange(len(rows), device=rows.device) + len(rows) * distributed.rank()


def _all_gather(rows: Tensor) -> Tensor:
    """Return the rows of all processes; gradients flow back to each."""
    if distributed.world_size() == 1:
        return rows
    parts = [torch.zeros_like(rows) for _ in range(distributed.world_size())]
    parts[distributed.rank()] = rows
    return distributed.differentiable_all_reduce(torch.cat(parts))


class ContrastTask(Task):
    """Draws the views of a group together and pushes all others away."""

    def __init__(self, network: Network, output: int, temperature: float, grouping: Grouping) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature
        self.grouping = grouping
        width = network.num_features
        self.projector = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, output))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        features = self.network.forward_features(torch.cat(batch.views))
        projected = self.projector(self.network.forward_head(features, pre_logits=True))
        # not under autocast, which rounds similarities to two digits before they are divided by the temperature
        with torch.autocast(projected.device.type, enabled=False):
            anchors = normalize(projected.to(torch.promote_types(projected.dtype, torch.float32)), dim=1)
            return {"loss": contrast(anchors, self.grouping(batch).repeat(2), self.temperature)}

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        return {"views": tiled(batch.views)}
