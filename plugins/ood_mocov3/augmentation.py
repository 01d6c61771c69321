"""The two augmentations of MoCo v3, which are those of BYOL (Grill et al., 2020)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ood_core.vision import prepare_torchvision


@dataclass(frozen=True)
class TwoViews:
    """Makes two views of an image that are not drawn alike.

    Attributes:
        first: Always blurred in the paper.
        second: Seldom blurred, sometimes solarised.
    """

    first: Callable[[Tensor], Tensor]
    second: Callable[[Tensor], Tensor]

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return both views, uint8 [3, S, S], of an image [3, H, W]."""
        return self.first(image), self.second(image)


@dataclass(frozen=True, kw_only=True)
class Distortions:
    """What both views have in common.

    Attributes:
        crop_scale: Smallest share of the area that a random crop keeps.
        flip: Whether half of the views are mirrored.
        color_jitter: Strength for brightness and contrast; half of it for saturation, a quarter for hue.
        blur: Whether views are blurred at all.
    """

    crop_scale: float
    flip: bool
    color_jitter: float
    blur: bool

    def view(self, image_size: int, blurred: float, solarized: float) -> Callable[[Tensor], Tensor]:
        """Return the augmentation with these probabilities of blur and solarisation, in the paper's order."""
        prepare_torchvision()
        from torchvision.transforms import InterpolationMode, v2  # slow

        steps = [v2.RandomResizedCrop(image_size, (self.crop_scale, 1), interpolation=InterpolationMode.BICUBIC)]
        if strength := self.color_jitter:
            jitter = v2.ColorJitter(strength, strength, strength / 2, min(strength / 4, 0.5))
            steps += [v2.RandomApply([jitter], p=0.8), v2.RandomGrayscale(p=0.2)]
        if self.blur:
            steps.append(v2.RandomApply([v2.GaussianBlur(_kernel(image_size), (0.1, 2.0))], p=blurred))
        if solarized:
            steps.append(v2.RandomSolarize(threshold=128, p=solarized))
        if self.flip:
            steps.append(v2.RandomHorizontalFlip())
        composed: Callable[[Tensor], Tensor] = v2.Compose(steps)
        return composed


def _kernel(image_size: int) -> int:
    """Return a tenth of the image, odd and at least 3; a blur by 2 pixels would leave nothing of a digit's 8."""
    return max(2 * (image_size // 20) + 1, 3)
