"""Fixed position embeddings of transformers on patches."""

from __future__ import annotations

import torch
from torch import Tensor

from ood_core.errors import OODError


def sines_and_cosines(grid: tuple[int, int], width: int) -> Tensor:
    """Return fixed position embeddings [L, D]: a quarter each for sine and cosine of column and row, base 10 000.

    Raises:
        OODError: The width is no multiple of four.
    """
    if width % 4:
        raise OODError(f"fixed positions need a width that is a multiple of 4, this backbone has {width}")
    rates = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    rows, columns = torch.meshgrid(*(torch.arange(size, dtype=torch.float64) for size in grid), indexing="ij")
    angles = [axis.flatten().unsqueeze(1) * rates for axis in (columns, rows)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], 1).float()
