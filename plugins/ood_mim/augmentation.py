"""The augmentation of one image for masked image modelling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from ood_core.vision import prepare_torchvision

Step: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Augmentation:
    """Some steps after each other."""

    steps: tuple[Step, ...]

    def __call__(self, image: Tensor) -> tuple[Tensor]:
        """Return the one view, uint8 [3, S, S], of an image [3, H, W]."""
        for step in self.steps:
            image = step(image)
        return (image,)


def flipped(image: Tensor) -> Tensor:
    """Return the image, mirrored half of the time."""
    return image.flip(-1) if torch.rand(()) < 0.5 else image


def jittered(strength: float) -> Step:
    """Return what changes brightness, contrast and saturation, each by a factor in 1 +- strength."""
    prepare_torchvision()
    from torchvision.transforms import v2  # slow

    jitter: Step = v2.ColorJitter(strength, strength, strength)
    return jitter
