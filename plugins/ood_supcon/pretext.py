"""The pretext tasks `supcon` and `simclr`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt, Le

from ood_core.augmentation import Apart, Distortions
from ood_core.errors import OODError
from ood_core.interfaces import (
    Network,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    PretextTask,
    TrainingData,
    Views,
)
from ood_supcon.task import ContrastTask, by_class, by_image


@dataclass(frozen=True, kw_only=True)
class SupervisedContrast(PretextTask):
    """Draw embeddings of one class together (Khosla et al., 2020); the training of SSD+ (Sehwag et al., 2021).

    The batch holds all positives and negatives, in several processes that of all of them; where `accumulation` cuts it,
    its parts are compared within themselves. The projection is thrown away: embeddings are what is scored.

    Attributes:
        temperature: Of the softmax; 0.5 in SSD+, 0.1 in the paper of the loss.
        output: Width of what is compared; 128 in the paper.
        crop_scale: Smallest share of an image's area that a random crop keeps; 0.2 in SSD+.
        flip: Whether half of the views are mirrored.
        color_jitter: Strength for brightness, contrast and saturation; 0.4 in SSD+, 0 changes no colour.
    """

    name = "supcon"
    least_classes: ClassVar[int] = 2  # of one class there is nothing to push away

    temperature: PositiveFloat = 0.5
    output: PositiveInt = 128
    crop_scale: Annotated[float, Gt(0), Le(1)] = 0.2
    flip: bool = True
    color_jitter: NonNegativeFloat = 0.4

    def check(self) -> None:
        """Refuse to compare a single image, which has nothing to differ from."""
        _require_others(self)

    def views(self, image_size: int, grid: tuple[int, int] | None) -> Views:
        """Return the augmentation, two views drawn alike."""
        return _two_views(image_size, self.crop_scale, self.flip, self.color_jitter)

    def build(self, network: Network, data: TrainingData) -> ContrastTask:
        """Return the task with a projection of two layers."""
        return ContrastTask(network, self.output, self.temperature, by_class)


@dataclass(frozen=True, kw_only=True)
class SimCLR(PretextTask):
    """Draw the two views of an image together (Chen et al., 2020); the training of SSD (Sehwag et al., 2021).

    All other images are negatives, whatever their class: those of the batch, in several processes that of all of them;
    where `accumulation` cuts it, its parts are compared within themselves. The projection is thrown away.

    Attributes:
        temperature: Of the softmax; 0.5 in SSD, 0.1 in the paper of the loss for ImageNet.
        output: Width of what is compared; 128 in the paper.
        crop_scale: Smallest share of an image's area that a random crop keeps; 0.2 in SSD, 0.08 in the paper.
        flip: Whether half of the views are mirrored.
        color_jitter: Strength for brightness, contrast and saturation; 0.4 in SSD, 0 changes no colour.
    """

    name = "simclr"

    temperature: PositiveFloat = 0.5
    output: PositiveInt = 128
    crop_scale: Annotated[float, Gt(0), Le(1)] = 0.2
    flip: bool = True
    color_jitter: NonNegativeFloat = 0.4

    def check(self) -> None:
        """Refuse to compare a single image, which has nothing to differ from."""
        _require_others(self)

    def views(self, image_size: int, grid: tuple[int, int] | None) -> Views:
        """Return the augmentation, two views drawn alike."""
        return _two_views(image_size, self.crop_scale, self.flip, self.color_jitter)

    def build(self, network: Network, data: TrainingData) -> ContrastTask:
        """Return the task with a projection of two layers."""
        return ContrastTask(network, self.output, self.temperature, by_image)


def _require_others(pretext: PretextTask) -> None:
    least = 2 * pretext.accumulation
    if pretext.batch_size < least:
        reason = "it compares the images of a batch, or of each part that 'accumulation' cuts it into"
        raise OODError(f"pretext '{pretext.name}' needs a batch_size of {least} or more: {reason}")


def _two_views(image_size: int, crop_scale: float, flip: bool, color_jitter: float) -> Views:
    both = Distortions(crop_scale=crop_scale, flip=flip, color_jitter=color_jitter, saturation=1.0)
    return Apart((both.view(image_size), both.view(image_size)))
