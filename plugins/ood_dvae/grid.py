"""Patch grids and the cells of an autoencoder, one for each patch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ood_core.errors import OODError


def side(tokenizer: str, grid: tuple[int, int]) -> int:
    """Return how many patches lie along each side of a grid (rows, columns).

    Raises:
        OODError: It is not square, as the views are.
    """
    rows, columns = grid
    if rows != columns:
        raise OODError(f"tokenizer '{tokenizer}' needs as many rows of patches as columns, not {rows} x {columns}")
    return rows


def laid_out(tokens: Tensor) -> Tensor:
    """Return tokens [B, L] as [B, h, w], h = w."""
    cells = math.isqrt(tokens.shape[1])
    return tokens.view(-1, cells, cells)


def compared(images: Tensor, decoded: Tensor) -> Tensor:
    """Return a picture [3, 2 S, B S]: the images in a row, below each what is left of it after its tokens."""
    return torch.cat([torch.cat(list(row), 2) for row in (images, decoded)], 1)
