"""One random crop at two sizes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ood_core.data.selection import evaluation_view
from ood_core.data.transforms import Transform
from ood_core.runtime.torchvision_compat import prepare_torchvision

_ASPECT = [3 / 4, 4 / 3]  # width : height, as in every random crop since Inception's


@dataclass(frozen=True)
class TwoSizeCrop:
    """Shows network and tokenizer the same part of an image, each at its size.

    Attributes:
        change: What happens to the image before.
        smallest: Smallest share of the area that the crop keeps; 1 makes two evaluation views.
        sizes: In pixels; the network's by bicubic interpolation, the tokenizer's by Lanczos's, both antialiased.
    """

    change: Transform
    smallest: float
    sizes: tuple[int, int]

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return two views, uint8 [3, S, S] and [3, V, V], of an image [3, H, W]."""
        changed = self.change(image)
        network, tokenizer = self.sizes
        if self.smallest == 1:
            return evaluation_view(changed, network), evaluation_view(changed, tokenizer)
        prepare_torchvision()
        from torchvision.transforms import InterpolationMode, v2  # slow

        top, left, height, width = v2.RandomResizedCrop.get_params(changed, [self.smallest, 1], _ASPECT)
        crop = changed[:, top : top + height, left : left + width]
        size = [network, network]
        return v2.functional.resize(crop, size, InterpolationMode.BICUBIC, antialias=True), _lanczos(crop, tokenizer)


def _lanczos(image: Tensor, size: int) -> Tensor:
    """Return the image, uint8, at this size; older torchvision filters no tensors in this way."""
    resized = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)
