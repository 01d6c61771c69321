"""Parts of augmentations: each takes an image, uint8 [3, H, W], and gives another; a view is some of them in a row.

All draw from torch's global generator, which is seeded for each image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from ood_core.data.selection import evaluation_view
from ood_core.runtime.torchvision_compat import prepare_torchvision

Change: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class InARow:
    """Some changes after each other.

    Attributes:
        changes: The first one is given the image.
    """

    changes: tuple[Change, ...]

    def __call__(self, image: Tensor) -> Tensor:
        """Return the changed image."""
        for change in self.changes:
            image = change(image)
        return image


@dataclass(frozen=True)
class Apart:
    """Views of an image that are drawn apart from each other.

    Attributes:
        changes: One for each view.
    """

    changes: tuple[Change, ...]

    def __call__(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the views, uint8 [3, S, S] each, of an image [3, H, W]."""
        return tuple(change(image) for change in self.changes)


def flipped(image: Tensor) -> Tensor:
    """Return the image, mirrored half of the time."""
    return image.flip(-1) if torch.rand(()) < 0.5 else image


def padded_crop(image: Tensor, padding: int) -> Tensor:
    """Return a random cut of the same size out of the image with so many black pixels around it."""
    height, width = image.shape[-2:]
    top, left = torch.randint(2 * padding + 1, (2,)).tolist()
    return functional.pad(image, [padding] * 4)[:, top : top + height, left : left + width]


def jittered(strength: float) -> Change:
    """Return what changes brightness, contrast and saturation, each by a factor in 1 +- strength."""
    prepare_torchvision()
    from torchvision.transforms import v2  # slow

    jitter: Change = v2.ColorJitter(strength, strength, strength)
    return jitter


def random_crop(image_size: int, smallest: float) -> Change:
    """Return what makes any image S x S: a random crop of at least this share of its area; at 1 the evaluation view."""
    if smallest == 1:
        return partial(evaluation_view, image_size=image_size)
    prepare_torchvision()
    from torchvision.transforms import InterpolationMode, v2  # slow, and not needed where nothing is cropped

    crop: Change = v2.RandomResizedCrop(image_size, scale=(smallest, 1), interpolation=InterpolationMode.BICUBIC)
    return crop


@dataclass(frozen=True, kw_only=True)
class Distortions:
    """The augmentation of contrastive learning (SimCLR, Chen et al., 2020; BYOL, Grill et al., 2020).

    Attributes:
        crop_scale: Smallest share of the area that a random crop keeps.
        flip: Whether half of the views are mirrored.
        color_jitter: Strength for brightness and contrast.
        saturation: Strength for saturation, as a share of that.
        grayscale: Share of views without colour; none where nothing is jittered.
    """

    crop_scale: float
    flip: bool
    color_jitter: float
    saturation: float = 0.5
    grayscale: float = 0.2

    def view(self, image_size: int, blurred: float = 0.0, solarized: float = 0.0) -> Change:
        """Return the augmentation with these probabilities of blur and solarisation, in the order of BYOL."""
        prepare_torchvision()
        from torchvision.transforms import v2  # slow

        steps: list[Change] = [random_crop(image_size, self.crop_scale)]
        if strength := self.color_jitter:
            jitter = v2.ColorJitter(strength, strength, strength * self.saturation, min(strength / 4, 0.5))
            steps += [v2.RandomApply([jitter], p=0.8), v2.RandomGrayscale(p=self.grayscale)]
        if blurred:
            steps.append(v2.RandomApply([v2.GaussianBlur(_kernel(image_size), (0.1, 2.0))], p=blurred))
        if solarized:
            steps.append(v2.RandomSolarize(threshold=128, p=solarized))
        if self.flip:
            steps.append(flipped)
        return InARow(tuple(steps))


def _kernel(image_size: int) -> int:
    """Return a tenth of the image, odd and at least 3; a blur by 2 pixels would leave nothing of a digit's 8."""
    return max(2 * (image_size // 20) + 1, 3)
