"""Grids of images for the report."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

COLUMNS = 8
"""Maximum number of images in a row."""

_TILE = 96  # pixels, about; smaller images are enlarged
_MARGIN = 2  # pixels of white around each tile


def tiled(rows: Sequence[Tensor]) -> Tensor:
    """Return a grid [3, H, W] in [0, 1] of rows of images [B, 3, S, S]; small images are enlarged without smoothing."""
    tiles = torch.stack([row[:COLUMNS] for row in rows]).float().clamp(0, 1)
    times = max(round(_TILE / tiles.shape[-1]), 1)
    enlarged = tiles.repeat_interleave(times, -2).repeat_interleave(times, -1)
    framed = functional.pad(enlarged, [_MARGIN] * 4, value=1.0)
    return framed.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)


def uncovered(images: Tensor, predicted: Tensor, mask: Tensor) -> Tensor:
    """Return a grid of three rows: images with hidden places in grey, with the predictions there, and complete.

    Args:
        images: [B, 3, S, S] in [0, 1].
        predicted: [B, 3, S', S']; used at hidden places only.
        mask: bool [B, h, w] over a grid of equal cells; True is hidden.
    """
    size = images.shape[-2:]
    hidden = functional.interpolate(mask.unsqueeze(1).float(), size, mode="nearest") > 0
    filled = functional.interpolate(predicted.float(), size, mode="bilinear")
    return tiled([images.masked_fill(hidden, 0.5), torch.where(hidden, filled, images), images])
