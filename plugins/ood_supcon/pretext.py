"""The pretext tasks `supcon` and `simclr`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt, Le

from ood_core.data.transforms import ContrastiveAugmentation, MultiView
from ood_core.interfaces import (
    Network,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    PretextTask,
    TrainingData,
    Views,
    refuse_single_images,
)
from ood_supcon.task import ContrastTask, by_class, by_image


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
