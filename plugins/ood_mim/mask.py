"""Blockwise masks (BEiT, Bao et al., 2022, algorithm 1), all images of a batch at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_ASPECT = math.log(1 / 0.3)  # height : width lies between 0.3 and 1 / 0.3, even on a log scale
_TRIES = 10  # failures in a row after which an image gets no more blocks


@dataclass(frozen=True)
class BlockMasks:
    """Draws masks made of rectangles, which hide whole things rather than single patches.

    Attributes:
        grid: Patches along height and width.
        budget: Most patches to hide; some masks stay a few below it.
        min_block: Smallest area of a block, in patches, as long as the budget leaves room for one.
    """

    grid: tuple[int, int]
    budget: int
    min_block: int

    def draw(self, images: int) -> Tensor:
        """Return masks, bool [B, L], on the CPU; True is hidden."""
        masks = torch.zeros(images, *self.grid, dtype=torch.bool)
        failures = torch.zeros(images, dtype=torch.int64)
        while (open_ := (failures < _TRIES) & (masks.sum((1, 2)) < self.budget)).any():
            rows = open_.nonzero()[:, 0]
            blocks, fits = self._fitting_blocks(masks[rows])
            masks[rows] |= blocks & fits[:, None, None]
            failures[rows] = torch.where(fits, 0, failures[rows] + 1)
        return masks.flatten(1)

    def _fitting_blocks(self, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Return a random block for every mask, and whether it lies inside, adds something and keeps to the budget."""
        left = self.budget - masks.sum((1, 2))
        height, width = self._sides(left)
        inside = (height < self.grid[0]) & (width < self.grid[1])
        blocks = _interval(height, self.grid[0]).unsqueeze(2) & _interval(width, self.grid[1]).unsqueeze(1)
        added = (blocks & ~masks).sum((1, 2))
        return blocks, inside & (added > 0) & (added <= left)

    def _sides(self, left: Tensor) -> tuple[Tensor, Tensor]:
        """Draw height and width, int64 [B]; the area is uniform between the smallest one and what is left."""
        area = self.min_block + (left - self.min_block) * torch.rand(len(left))
        aspect = ((2 * torch.rand(len(left)) - 1) * _ASPECT).exp()
        return (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()


@dataclass(frozen=True)
class ExactBlockMasks:
    """Evens blockwise masks out, as BEiT v2 does (Peng et al., 2022): all hide the same number of patches.

    Attributes:
        blocks: Draws them; its budget becomes the number.
    """

    blocks: BlockMasks

    def draw(self, images: int) -> Tensor:
        """Return masks, bool [B, L], on the CPU: those of the blocks, and single patches at random."""
        masks = self.blocks.draw(images)
        # what blocks hide comes before the rest
        chosen = (masks + torch.rand(masks.shape)).topk(self.blocks.budget).indices
        return torch.zeros_like(masks).scatter_(1, chosen, True)


def _interval(length: Tensor, size: int) -> Tensor:
    """Return bool [B, size], True on a random stretch of this length."""
    start = (torch.rand(len(length)) * (size - length + 1)).floor().unsqueeze(1)
    cells = torch.arange(size)
    return (cells >= start) & (cells < start + length.unsqueeze(1))
