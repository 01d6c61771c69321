"""Blockwise masks (BEiT, Bao et al., 2022, algorithm 1), all images of a batch at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_ASPECT = math.log(1 / 0.3)  # height : width lies between 0.3 and 1 / 0.3, even on a log scale
_TRIES = 10  # failures in a row after which an image gets no more blocks
_POOL = 256  # masks that fixed ones are chosen from
_FIXED = 8  # of these at least: a patch is guessed from several surroundings


@dataclass(frozen=True)
class BlockMasks:
    """Draws masks made of rectangles, which hide whole things rather than single patches."""

    grid: tuple[int, int]  # patches along height and width
    budget: int  # most patches to hide; some masks stay a few below it
    min_block: int  # smallest area of a block, in patches, as long as the budget leaves room for one

    def draw(self, images: int, generator: torch.Generator | None = None) -> Tensor:
        """Return masks, bool [B, L], on the CPU; True is hidden."""
        masks = torch.zeros(images, *self.grid, dtype=torch.bool)
        failures = torch.zeros(images, dtype=torch.int64)
        while (open_ := (failures < _TRIES) & (masks.sum((1, 2)) < self.budget)).any():
            rows = open_.nonzero()[:, 0]
            blocks, fits = self._fitting_blocks(masks[rows], generator)
            masks[rows] |= blocks & fits[:, None, None]
            failures[rows] = torch.where(fits, 0, failures[rows] + 1)
        return masks.flatten(1)

    def _fitting_blocks(self, masks: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Return a random block for every mask, and whether it lies inside, adds something and keeps to the budget."""
        left = self.budget - masks.sum((1, 2))
        # the area is uniform between the smallest one and what is left
        area = self.min_block + (left - self.min_block) * torch.rand(len(left), generator=generator)
        aspect = ((2 * torch.rand(len(left), generator=generator) - 1) * _ASPECT).exp()
        height, width = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
        inside = (height < self.grid[0]) & (width < self.grid[1])
        rows = _random_interval(height, self.grid[0], generator)
        blocks = rows.unsqueeze(2) & _random_interval(width, self.grid[1], generator).unsqueeze(1)
        added = (blocks & ~masks).sum((1, 2))
        return blocks, inside & (added > 0) & (added <= left)


@dataclass(frozen=True)
class ExactBlockMasks:
    """Evens blockwise masks out, as BEiT v2 does (Peng et al., 2022): all hide the same number of patches."""

    blocks: BlockMasks  # draws them; its budget becomes the number

    def draw(self, images: int, generator: torch.Generator | None = None) -> Tensor:
        """Return masks, bool [B, L], on the CPU: those of the blocks, and single patches at random."""
        masks = self.blocks.draw(images, generator)
        # what blocks hide comes before the rest
        chosen = (masks + torch.rand(masks.shape, generator=generator)).topk(self.blocks.budget).indices
        return torch.zeros_like(masks).scatter_(1, chosen, True)


def fixed_masks(masks: BlockMasks | ExactBlockMasks) -> Tensor:
    """Return masks, bool [K, L], always the same ones, that hide every patch once or more.

    They are drawn as in training; of many, those are chosen that hide the patches most evenly. Patches that none hides,
    on an odd grid, are hidden in a further mask without a shape.
    """
    pool = masks.draw(_POOL, torch.Generator().manual_seed(0))
    within_reach = pool.any(0)
    chosen: list[Tensor] = []
    times = torch.zeros(pool.shape[1])
    while len(chosen) < _FIXED or not times[within_reach].all():
        # a patch hidden once more counts a quarter, so that one never hidden comes up in the end
        chosen.append(pool[(pool.double() @ 4.0 ** -times.double()).argmax()])
        times += chosen[-1]
    budget = (masks.blocks if isinstance(masks, ExactBlockMasks) else masks).budget
    while not times.all():
        rarest = times.argsort(stable=True)[:budget]
        chosen.append(torch.zeros_like(within_reach).index_fill(0, rarest, True))
        times += chosen[-1]
    return torch.stack(chosen)


def _random_interval(length: Tensor, size: int, generator: torch.Generator | None) -> Tensor:
    """Return bool [B, size], True on a random stretch of this length."""
    start = (torch.rand(len(length), generator=generator) * (size - length + 1)).floor().unsqueeze(1)
    cells = torch.arange(size)
    return (cells >= start) & (cells < start + length.unsqueeze(1))
