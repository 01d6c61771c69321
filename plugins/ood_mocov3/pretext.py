"""The pretext task `mocov3`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le

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
from ood_mocov3.task import Contrast, MoCoV3Task


@dataclass(frozen=True, kw_only=True)
class MoCoV3(PretextTask):
    """Recognise an image in another view of it among the other images of the batch (Chen et al., 2021).

    The batch holds all negatives: 256 images or more are worth their memory. With several processes it is the batch of
    all of them; where `accumulation` cuts it, its parts are compared within themselves. The initial weights of the
    paper are timm's option `weight_init: moco`. Positions of a ViT are fixed sines and cosines. What is projected is
    the embedding that is scored later, the class token in the paper. Convolutional networks get one layer less before
    the contrast, as in the paper; its optimiser for them, LARS, is not here.

    Attributes:
        decay_all: True here, as the paper's code exempts nothing from weight decay; that is 0.1 for ViTs.
        temperature: Of the softmax over the batch; 0.2 in the paper for ViTs.
        momentum: Of the averaged encoder at the start, rising to 1; 0.99 in the paper.
        hidden: Width inside projector and predictor; 4096 in the paper.
        output: Width of what is compared; 256 in the paper.
        freeze_patches: Whether the patch embedding stays as it is, as in the paper, which makes ViTs stable. In a
            hybrid it is the whole convolutional part: set it to false there.
        crop_scale: Smallest share of an image's area that a random crop keeps; 0.08 in the paper.
        flip: Whether half of the views are mirrored.
        color_jitter: Strength for brightness and contrast; 0.4 in the paper, 0 changes no colour.
        blur: Whether the first view is always blurred and the second sometimes.
        solarize: Share of second views whose bright pixels are inverted; 0.2 in the paper.
    """

    name = "mocov3"

    decay_all: bool = True
    temperature: PositiveFloat = 0.2
    momentum: Annotated[float, Ge(0), Le(1)] = 0.99
    hidden: PositiveInt = 4096
    output: PositiveInt = 256
    freeze_patches: bool = True
    crop_scale: Annotated[float, Gt(0), Le(1)] = 0.08
    flip: bool = True
    color_jitter: NonNegativeFloat = 0.4
    blur: bool = True
    solarize: Annotated[float, Ge(0), Le(1)] = 0.2

    def check(self) -> None:
        refuse_single_images(self)

    def views(self, image_size: int, grid: tuple[int, int] | None) -> Views:
        both = ContrastiveAugmentation(crop_scale=self.crop_scale, flip=self.flip, color_jitter=self.color_jitter)
        first, second = (1.0, 0.1) if self.blur else (0.0, 0.0)
        return MultiView((both.view(image_size, first), both.view(image_size, second, self.solarize)))

    def build(self, network: Network, data: TrainingData) -> MoCoV3Task:
        """Return the task; the patch embedding of the network is frozen in it."""
        contrast = Contrast(self.hidden, self.output, self.temperature, self.momentum)
        return MoCoV3Task(network, contrast, self.freeze_patches)
