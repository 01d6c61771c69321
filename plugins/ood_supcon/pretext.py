"""The pretext tasks `supcon` and `simclr`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, TypeAlias

import torch
from annotated_types import Gt, Le
from torch import Tensor, nn
from torch.nn.functional import normalize

from ood_core.data.transforms import ContrastiveAugmentation, MultiView
from ood_core.interfaces import Batch, Network, PretextTask, Task, TrainingData, Views, refuse_single_images
from ood_core.interfaces.building_blocks import tiled
from ood_core.interfaces.plugin import NonNegativeFloat, PositiveFloat, PositiveInt
from ood_core.runtime import distributed

Grouping: TypeAlias = Callable[[Batch], Tensor]  # int64 [B]: images of the same number are alike, in all processes


def by_class(batch: Batch) -> Tensor:
    """Return the class of each image."""
    return batch.labels


def by_image(batch: Batch) -> Tensor:
    """Return a number for each image that no other image of the step has."""
    return _places(batch.labels)


def contrast(anchors: Tensor, groups: Tensor, temperature: float) -> Tensor:
    """Return the mean loss of this process's anchors [M, D], of unit length, against those of all processes.

    Of each anchor the mean, over the others of its group, of -log softmax over all others; a group has two or more.
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
        self.network, self.temperature, self.grouping = network, temperature, grouping
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


# A recipe writes options flat, so both tasks must have them as their own fields: inherited, they are declared once.
@dataclass(frozen=True, kw_only=True)
class Contrastive(PretextTask):
    """What is shown and compared in both tasks, which differ in what they take for alike.

    The batch holds all positives and negatives, in several processes that of all of them; where `accumulation` cuts it,
    its parts are compared within themselves. The projection is thrown away: embeddings are what is scored.

    Attributes:
        temperature: Of the softmax; 0.5 in SSD and SSD+, 0.1 in the papers of the losses.
        output: Width of what is compared; 128 in the papers.
        crop_scale: Smallest share of an image's area that a random crop keeps; 0.2 in SSD and SSD+, 0.08 in SimCLR.
        flip: Whether half of the views are mirrored.
        color_jitter: Strength for brightness, contrast and saturation; 0.4 in SSD and SSD+, 0 changes no colour.
    """

    temperature: PositiveFloat = 0.5
    output: PositiveInt = 128
    crop_scale: Annotated[float, Gt(0), Le(1)] = 0.2
    flip: bool = True
    color_jitter: NonNegativeFloat = 0.4

    picture_legends: ClassVar[dict[str, str]] = {"views": "from top to bottom: first view of each image; second view"}

    def check(self) -> None:
        refuse_single_images(self)

    def views(self, image_size: int, grid: tuple[int, int] | None) -> Views:
        both = ContrastiveAugmentation(
            crop_scale=self.crop_scale, flip=self.flip, color_jitter=self.color_jitter, saturation=1.0
        )
        return MultiView((both.view(image_size), both.view(image_size)))

    def build(self, network: Network, data: TrainingData) -> ContrastTask:
        """Return the task: images of one class are alike, or the views of one image."""
        return ContrastTask(network, self.output, self.temperature, by_class if self.uses_labels else by_image)


@dataclass(frozen=True, kw_only=True)
class SupervisedContrast(Contrastive):
    """Draw embeddings of one class together (Khosla et al., 2020); the training of SSD+ (Sehwag et al., 2021)."""

    name = "supcon"
    uses_labels: ClassVar[bool] = True
    least_classes: ClassVar[int] = 2  # of one class there is nothing to push away


@dataclass(frozen=True, kw_only=True)
class SimCLR(Contrastive):
    """Draw the two views of an image together (Chen et al., 2020); the training of SSD (Sehwag et al., 2021).

    All other images are negatives, whatever their class.
    """

    name = "simclr"
