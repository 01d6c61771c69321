"""Images as rows of patches and back, and random masks over them."""

from __future__ import annotations

import torch
from torch import Tensor

Grid = tuple[int, int]


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
