"""The pretext task `simmim` (Xie et al., 2022): one linear layer predicts the pixels of hidden squares."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt, Le, Lt
from torch import Tensor, nn

from ood_core.errors import OODError
from ood_core.interfaces import Network, PatchNetwork, PositiveInt, PretextTask, TrainingData, Views, require_patches
from ood_core.interfaces.building_blocks import UNCOVERED_ROWS
from ood_pixels.task import Grid, PixelTask, crop_and_flip, fixed_masks, random_mask


class SimMIMTask(PixelTask):
    """Mean distance between predicted and true pixels of hidden patches, both scaled to [-1, 1]."""

    error = torch.abs

    def __init__(self, network: PatchNetwork, units: Grid, ratio: float, pixels: int) -> None:
        super().__init__()
        self.network, self.units = network, units
        self.hidden = math.ceil(ratio * units[0] * units[1])
        width = network.num_features
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(width), std=0.02))
        self.head = nn.Linear(width, pixels)

    def draw(self, images: int) -> Tensor:
        return self._patchwise(random_mask(images, self.units, self.hidden))

    def fixed_masks(self) -> Tensor:
        return self._patchwise(fixed_masks(self.units, self.hidden))

    def targets(self, patches: Tensor) -> Tensor:
        """Return pixels in [-1, 1]."""
        return 2 * patches - 1

    def pixels(self, predicted: Tensor, patches: Tensor) -> Tensor:
        """Return pixels in [0, 1]."""
        return predicted / 2 + 0.5

    def predict(self, images: Tensor, mask: Tensor) -> Tensor:
        predicted: Tensor = self.head(self.network.forward_masked(images, mask, self.mask_token)).float()
        return predicted

    def _patchwise(self, mask: Tensor) -> Tensor:
        """Return masks over patches, bool [B, L], of those over units; a hidden unit hides all patches within it."""
        for axis, (patches, units) in enumerate(zip(self.network.grid, self.units, strict=True), 1):
            mask = mask.repeat_interleave(patches // units, axis)
        return mask.flatten(1)


@dataclass(frozen=True, kw_only=True)
class SimMIM(PretextTask):
    """Predict the pixels of hidden squares from the rest of the image (Xie et al., 2022).

    Attributes:
        mask_ratio: Share of the squares to hide, rounded up; 0.6 in the paper.
        mask_unit: Side of a square in pixels, a multiple of the patch size; 32 in the paper at 192 pixels.
        crop_scale: Smallest share of an image's area that a random crop keeps; 0.67 in the paper.
        flip: Whether half of the images are mirrored.
    """

    name = "simmim"
    mask_ratio: Annotated[float, Gt(0), Lt(1)] = 0.6
    mask_unit: PositiveInt = 32
    crop_scale: Annotated[float, Gt(0), Le(1)] = 0.67
    flip: bool = True

    picture_legends: ClassVar[dict[str, str]] = {"reconstructions": UNCOVERED_ROWS.format("the predicted pixels")}

    def views(self, image_size: int, grid: tuple[int, int] | None) -> Views:
        return crop_and_flip(image_size, self.crop_scale, self.flip)

    def build(self, network: Network, data: TrainingData) -> SimMIMTask:
        task = self.build_empty(network, data.image_size)
        task.network.tie_position_biases()
        return task

    def build_empty(self, network: Network, image_size: int) -> SimMIMTask:
        patched = require_patches(network, self)
        patch = image_size // patched.grid[0]
        possible = [unit for unit in range(patch, image_size, patch) if image_size % unit == 0]
        if self.mask_unit not in possible:
            raise OODError(
                f"pretext 'simmim': mask_unit must be a multiple of the patch size {patch} and divide the image size "
                f"{image_size}, it is {self.mask_unit}; possible: {', '.join(map(str, possible)) or 'none'}"
            )
        side = image_size // self.mask_unit
        if math.ceil(self.mask_ratio * side**2) == side**2:
            raise OODError(
                f"pretext 'simmim': with mask_ratio {self.mask_ratio} all {side**2} squares are hidden; lower it, or "
                f"mask_unit {self.mask_unit}"
            )
        return SimMIMTask(patched, (side, side), self.mask_ratio, 3 * patch * patch)
