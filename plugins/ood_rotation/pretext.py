"""The pretext task `rotation`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt, Le
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ood_core.data.transforms import Compose, MultiView, random_color_jitter, random_crop, random_flip
from ood_core.interfaces import Batch, Network, NonNegativeFloat, PretextTask, Task, TrainingData, Views
from ood_core.interfaces.building_blocks import tiled

TURNS = 4


class RotationTask(Task):
    """Cross-entropy over the four quarter turns, all of every image."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.head = nn.Linear(network.num_features, TURNS)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss over the turned images, four times the batch, and the accuracy."""
        (images,) = batch.views
        targets = torch.arange(TURNS, device=images.device).repeat_interleave(len(images))
        features = self.network.forward_features(torch.cat(_turned(images)))
        logits = self.head(self.network.forward_head(features, pre_logits=True))
        return {"loss": cross_entropy(logits, targets), "accuracy": (logits.argmax(1) == targets).float().mean()}

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        (images,) = batch.views
        return {"turns": tiled(_turned(images))}


def _turned(images: Tensor) -> list[Tensor]:
    """Return the images as they are, and turned to the left by one, two and three quarters; [B, 3, S, S] each."""
    return [images.rot90(turns, (2, 3)) for turns in range(TURNS)]


@dataclass(frozen=True, kw_only=True)
class Rotation(PretextTask):
    """Tell by how many quarter turns an image was turned (Gidaris et al., 2018; for OOD Hendrycks et al., 2019).

    Every image is shown in all four turns, as in the paper, so that a step has four times `batch_size` images to pass.

    Attributes:
        crop_scale: Smallest share of an image's area that a crop keeps, 1 crops nothing; always 0.77 in the paper.
        flip: Whether half of the images are mirrored, as in the paper.
        color_jitter: Strength for brightness, contrast and saturation; the paper changes no colour, 0.
    """

    name = "rotation"
    crop_scale: Annotated[float, Gt(0), Le(1)] = 0.77
    flip: bool = True
    color_jitter: NonNegativeFloat = 0.0

    picture_legends: ClassVar[dict[str, str]] = {
        "turns": "from top to bottom: images; turned to the left by a quarter; by two quarters; by three quarters"
    }

    def views(self, image_size: int, grid: tuple[int, int] | None) -> Views:
        changes = [random_crop(image_size, self.crop_scale)]
        changes += [random_flip] if self.flip else []
        changes += [random_color_jitter(self.color_jitter)] if self.color_jitter else []
        return MultiView((Compose(tuple(changes)),))

    def build(self, network: Network, data: TrainingData) -> RotationTask:
        return RotationTask(network)
