"""Images as rows of patches and back; random masks over them, and fixed ones."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Grid = tuple[int, int]

_FIXED = 8  # masks at least: a patch is guessed from several surroundings


def cut(images: Tensor, grid: Grid) -> Tensor:
    """Return the pixels of the patches, [B, L, 3 * P * P], row by row, of images [B, 3, S, S]."""
    count, channels, height, width = images.shape
    cells = images.reshape(count, channels, grid[0], height // grid[0], grid[1], width // grid[1])
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(count, grid[0] * grid[1], -1)


def join(patches: Tensor, grid: Grid, image_size: int) -> Tensor:
    """Return images [B, 3, S, S] of patches as `cut` makes them."""
    height, width = image_size // grid[0], image_size // grid[1]
    cells = patches.reshape(len(patches), *grid, 3, height, width)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(len(patches), 3, image_size, image_size)


def random_mask(count: int, cells: Grid, hidden: int) -> Tensor:
    """Return masks, bool [B, h, w] on the CPU, each with so many hidden cells."""
    order = torch.rand(count, cells[0] * cells[1]).argsort(1)
    mask = torch.zeros(count, cells[0] * cells[1], dtype=torch.bool)
    return mask.scatter_(1, order[:, :hidden], True).view(count, *cells)


def fixed_masks(cells: Grid, hidden: int) -> Tensor:
    """Return masks, bool [K, h, w] on the CPU, always the same ones, each with so many hidden cells.

    Shuffled cells are dealt out in hands of this size, the last hand of a shuffle filled up from its first; so each
    shuffle hides every cell once or twice.
    """
    count = cells[0] * cells[1]
    hands = math.ceil(count / hidden)
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(count, generator=generator) for _ in range(math.ceil(_FIXED / hands))]
    dealt = torch.cat([order[torch.arange(hands * hidden) % count].view(hands, hidden) for order in orders])
    mask = torch.zeros(len(dealt), count, dtype=torch.bool)
    return mask.scatter_(1, dealt, True).view(-1, *cells)
