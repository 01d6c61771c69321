"""The pretext tasks `simmim` and `mae`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt, Le, Lt
from torch import Tensor

from ood_core.data.transforms import Apart, InARow, flipped, random_crop
from ood_core.errors import OODError
from ood_core.interfaces import Network, PatchNetwork, PositiveInt, PretextTask, TrainingData, Views
from ood_core.interfaces.building_blocks.masked_errors import restore
from ood_core.interfaces.building_blocks.positions import sines_and_cosines
from ood_pixels.mae import Decoder, MaskedAutoencoderTask, Targets
from ood_pixels.patches import Grid
from ood_pixels.simmim import SimMIMTask


def _views(image_size: int, crop_scale: float, flip: bool) -> Views:
    return Apart((InARow((random_crop(image_size, crop_scale), *([flipped] if flip else []))),))


def _patches(network: Network, name: str) -> PatchNetwork:
    if not isinstance(network, PatchNetwork):
        raise OODError(f"pretext '{name}' needs a backbone that works on patches, such as a ViT")
    return network


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

    def views(self, image_size: int, grid: tuple[int, int] | None) -> Views:
        """Return the augmentation, one view."""
        return _views(image_size, self.crop_scale, self.flip)

    def build(self, network: Network, data: TrainingData) -> SimMIMTask:
        """Return the task.

        Raises:
            OODError: The network has no patches, or squares of this size cannot be made of them.
        """
        patched = _patches(network, self.name)
        task = self._task(patched, data.image_size)
        patched.tie_position_biases()
        return task

    def revive(self, network: Network, image_size: int, kept: Mapping[str, Tensor]) -> SimMIMTask:
        """Return the trained task.

        Raises:
            OODError: The network has no patches, or these are not the tensors of a task with these options.
        """
        with torch.device("meta"):
            task = self._task(_patches(network, self.name), image_size)
        return restore(task, kept, f"pretext '{self.name}'", "network")

    def _task(self, network: PatchNetwork, image_size: int) -> SimMIMTask:
        patch = image_size // network.grid[0]
        return SimMIMTask(network, self._units(patch, image_size), self.mask_ratio, 3 * patch * patch)

    def _units(self, patch: int, image_size: int) -> Grid:
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
        return side, side


@dataclass(frozen=True, kw_only=True)
class MaskedAutoencoder(PretextTask):
    """Draw the hidden patches of an image of which the encoder sees only the others (MAE, He et al., 2022).

    Attributes:
        mask_ratio: Share of the patches to hide; 0.75 in the paper.
        decoder_width: Of the decoder's tokens; 512 in the paper.
        decoder_depth: Blocks of the decoder; 8 in the paper.
        decoder_heads: Heads of its attention; 16 in the paper.
        normalize_targets: Whether each patch is drawn at mean 0 and variance 1, as in the paper's best models.
        crop_scale: Smallest share of an image's area that a random crop keeps; 0.2 in the paper.
        flip: Whether half of the images are mirrored.
    """

    name = "mae"

    mask_ratio: Annotated[float, Gt(0), Lt(1)] = 0.75
    decoder_width: PositiveInt = 512
    decoder_depth: PositiveInt = 8
    decoder_heads: PositiveInt = 16
    normalize_targets: bool = True
    crop_scale: Annotated[float, Gt(0), Le(1)] = 0.2
    flip: bool = True

    def check(self) -> None:
        """Refuse a width that cannot be shared out among the heads, or has no room for positions."""
        if self.decoder_width % self.decoder_heads or self.decoder_width % 4:
            raise OODError(
                f"pretext 'mae': decoder_width must be a multiple of decoder_heads {self.decoder_heads} and of 4, "
                f"it is {self.decoder_width}"
            )

    def views(self, image_size: int, grid: tuple[int, int] | None) -> Views:
        """Return the augmentation, one view."""
        return _views(image_size, self.crop_scale, self.flip)

    def build(self, network: Network, data: TrainingData) -> MaskedAutoencoderTask:
        """Return the task, the network's positions fixed.

        Raises:
            OODError: The network has no patches, or none of them would be hidden or seen.
        """
        patched = _patches(network, self.name)
        patched.fix_positions()
        return self._task(patched, data.image_size)

    def revive(self, network: Network, image_size: int, kept: Mapping[str, Tensor]) -> MaskedAutoencoderTask:
        """Return the trained task.

        Raises:
            OODError: The network has no patches, or these are not the tensors of a task with these options.
        """
        with torch.device("meta"):
            task = self._task(_patches(network, self.name), image_size)
        return restore(task, kept, f"pretext '{self.name}'", "network")

    def _task(self, network: PatchNetwork, image_size: int) -> MaskedAutoencoderTask:
        patches = network.grid[0] * network.grid[1]
        hidden = patches - int(patches * (1 - self.mask_ratio))
        if not 0 < hidden < patches:
            raise OODError(f"pretext 'mae': with mask_ratio {self.mask_ratio} {hidden} of {patches} patches are hidden")
        decoder = Decoder(self.decoder_width, self.decoder_depth, self.decoder_heads)
        positions = sines_and_cosines(network.grid, self.decoder_width)
        targets = Targets(3 * (image_size // network.grid[0]) ** 2, self.normalize_targets)
        return MaskedAutoencoderTask(network, decoder, targets, hidden, positions)
