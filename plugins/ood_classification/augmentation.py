"""The augmentation of one image for classification."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Augmentation:
    """Shift, cut and mirror, in this order; what is switched off costs nothing.

    Attributes:
        image_size: S, of the view.
        cut: Makes any image S x S pixels large.
        padding: Pixels the view may be shifted by; black comes in.
        flip: Whether half of the images are mirrored.
    """

    image_size: int
    cut: Callable[[Tensor], Tensor]
    padding: int
    flip: bool

    def __call__(self, image: Tensor) -> tuple[Tensor]:
        """Return the one view, uint8 [3, S, S], of an image [3, H, W]."""
        view = self.cut(image)
        if self.padding:
            view = self._shifted(view)
        if self.flip and torch.rand(()) < 0.5:
            view = view.flip(-1)
        return (view,)

    def _shifted(self, view: Tensor) -> Tensor:
        padded = functional.pad(view, [self.padding] * 4)
        top, left = torch.randint(2 * self.padding + 1, (2,)).tolist()
        return padded[:, top : top + self.image_size, left : left + self.image_size]
