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
from ood_supcon.task import ContrastTask


@dataclass(frozen=True, kw_only=True)
class _Contrast(PretextTask):
    """The options of both tasks, which differ in what they take for alike.

    Attributes:
        temperature: Of the softmax; 0.5 in SSD.
        output: Width of what is compared; 128 in the papers.
        crop_scale: Smallest share of an image's area that a random crop keeps; 0.2 in SSD.
        flip: Whether half of the views are mirrored.
        color_jitter: Strength for brightness, contrast and saturation; 0.4 in SSD, 0 changes no colour.
    """

    by_label: ClassVar[bool]

    temperature: PositiveFloat = 0.5
    output: PositiveInt = 128
    crop_scale: Annotated[float, Gt(0), Le(1)] = 0.2
    flip: bool = True
    color_jitter: NonNegativeFloat = 0.4

    def check(self) -> None:
        """Refuse batches of one image, which has nothing to differ from."""
        if self.batch_size < 2:
            raise OODError(f"pretext '{self.name}' needs a batch_size of 2 or more: it compares the images of a batch")

    def views(self, image_size: int, grid: tuple[int, int] | None) -> Views:
        """Return the augmentation, two views drawn alike."""
        both = Distortions(crop_scale=self.crop_scale, flip=self.flip, color_jitter=self.color_jitter, saturation=1.0)
        return Apart((both.view(image_size), both.view(image_size)))

    def build(self, network: Network, data: TrainingData) -> ContrastTask:
        """Return the task with a projection of two layers, which is thrown away afterwards."""
        return ContrastTask(network, self.output, self.temperature, self.by_label)


@dataclass(frozen=True, kw_only=True)
class SupervisedContrast(_Contrast):
    """Draw embeddings of one class together (Khosla et al., 2020); the training of SSD+ (Sehwag et al., 2021)."""

    name = "supcon"
    by_label: ClassVar[bool] = True
    least_classes: ClassVar[int] = 2  # of one class there is nothing to push away


@dataclass(frozen=True, kw_only=True)
class SimCLR(_Contrast):
    """Draw the views of one image together (Chen et al., 2020); the training of SSD (Sehwag et al., 2021)."""

    name = "simclr"
    by_label: ClassVar[bool] = False
