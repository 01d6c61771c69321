"""Patch grids and the cells of an autoencoder, one for each patch."""

from __future__ import annotations

import math

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
