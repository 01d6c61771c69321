"""Random transforms of images, uint8 [3, H, W].

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

Transform: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Compose:
    """Transforms one after the other."""

    transforms: tuple[Transform, ...]

    def __call__(self, image: Tensor) -> Tensor:
        """Return the transformed image."""
        for transform in self.transforms:
            image = transform(image)
        return image


@dataclass(frozen=True)
class MultiView:
    """Independent views of an image, by one transform each."""

    transforms: tuple[Transform, ...]

    def __call__(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the views, uint8 [3, S, S] each, of an image [3, H, W]."""
        return tuple(transform(image) for transform in self.transforms)


def random_flip(image: Tensor) -> Tensor:
    """Return the image, mirrored half of the time."""
    return image.flip(-1) if torch.rand(()) < 0.5 else image


def padded_crop(image: Tensor, padding: int) -> Tensor:
    """Return a random crop of the same size from the image padded with black pixels."""
    height, width = image.shape[-2:]
    top, left = torch.randint(2 * padding + 1, (2,)).tolist()
    return functional.pad(image, [padding] * 4)[:, top : top + height, left : left + width]


def random_color_jitter(strength: float) -> Transform:
    """Return a jitter of brightness, contrast and saturation, each by a factor in 1 +- strength."""
    prepare_torchvision()
    from torchvision.transforms import v2  # slow

    jitter: Transform = v2.ColorJitter(strength, strength, strength)
    return jitter


def random_crop(image_size: int, smallest: float) -> Transform:
    """Return a random crop of at least this share of the area, resized to S x S; at 1 the evaluation view."""
    if smallest == 1:
        return partial(evaluation_view, image_size=image_size)
    prepare_torchvision()
    from torchvision.transforms import InterpolationMode, v2  # slow, and not needed where nothing is cropped

    crop: Transform = v2.RandomResizedCrop(image_size, scale=(smallest, 1), interpolation=InterpolationMode.BICUBIC)
    return crop


@dataclass(frozen=True, kw_only=True)
class ContrastiveAugmentation:
    """The augmentation of contrastive learning (SimCLR, Chen et al., 2020; BYOL, Grill et al., 2020).

    Attributes:
        crop_scale: Smallest share of the area that a random crop keeps.
        flip: Whether half of the views are mirrored.
        color_jitter: Strength for brightness and contrast.
        saturation: Strength for saturation, as a share of that.
        grayscale: Share of views without colour; none if `color_jitter` is 0.
    """

    crop_scale: float
    flip: bool
    color_jitter: float
    saturation: float = 0.5
    grayscale: float = 0.2

    def view(self, image_size: int, blurred: float = 0.0, solarized: float = 0.0) -> Transform:
        """Return the augmentation with these probabilities of blur and solarisation, in the order of BYOL."""
        prepare_torchvision()
        from torchvision.transforms import v2  # slow

        steps: list[Transform] = [random_crop(image_size, self.crop_scale)]
        if strength := self.color_jitter:
            jitter = v2.ColorJitter(strength, strength, strength * self.saturation, min(strength / 4, 0.5))
            steps += [v2.RandomApply([jitter], p=0.8), v2.RandomGrayscale(p=self.grayscale)]
        if blurred:
            # a tenth of the image, odd and at least 3: a blur by 2 pixels would leave nothing of a digit's 8
            kernel = max(2 * (image_size // 20) + 1, 3)
            steps.append(v2.RandomApply([v2.GaussianBlur(kernel, (0.1, 2.0))], p=blurred))
        if solarized:
            steps.append(v2.RandomSolarize(threshold=128, p=solarized))
        if self.flip:
            steps.append(random_flip)
        return Compose(tuple(steps))
