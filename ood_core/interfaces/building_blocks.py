"""Parts that several plugin packages build networks and tasks from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ood_core.errors import OODError

COLUMNS = 8  # maximum number of images in a row of a grid
UNCOVERED_ROWS = "from top to bottom: hidden patches in grey; {} in their places; the whole images"
"""Legend of `uncovered`, with a place for the predictions."""

_TILE = 96  # pixels, about; smaller images are enlarged
_MARGIN = 2  # pixels of white around each tile
_SHOWN = 3  # names of a list that would be too long


def tiled(rows: Sequence[Tensor]) -> Tensor:
    """Return a grid [3, H, W] in [0, 1] of rows of images [B, 3, S, S]; small images are enlarged without smoothing."""
    tiles = torch.stack([row[:COLUMNS] for row in rows]).float().clamp(0, 1)
    times = max(round(_TILE / tiles.shape[-1]), 1)
    enlarged = tiles.repeat_interleave(times, -2).repeat_interleave(times, -1)
    framed = functional.pad(enlarged, [_MARGIN] * 4, value=1.0)
    return framed.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)


def uncovered(images: Tensor, predicted: Tensor, mask: Tensor) -> Tensor:
    """Return a grid of three rows: images with hidden places in grey, with the predictions there, and complete.

    Images [B, 3, S, S] are in [0, 1], predictions [B, 3, S', S']; the mask, bool [B, h, w], hides cells of a grid.
    """
    size = images.shape[-2:]
    hidden = functional.interpolate(mask.unsqueeze(1).float(), size, mode="nearest") > 0
    filled = functional.interpolate(predicted.float(), size, mode="bilinear")
    return tiled([images.masked_fill(hidden, 0.5), torch.where(hidden, filled, images), images])


def mean_over_masks(masks: Tensor, errors: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the mean error of each patch over the masks, bool [K, L], that hide it, float32 [B, L]; each must be.

    `errors` gives those of all patches, [B, L], under one mask, bool [L]; the ones of visible patches do not count.
    """
    # one mask after the other: all at once would need K times the memory
    hidden = [torch.where(mask, errors(mask).float(), 0.0) for mask in masks]
    return torch.stack(hidden).sum(0) / masks.sum(0)


def state_differences(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Return in a few words how tensors differ from those wanted in name and shape; "" if they do not."""
    other = [name for name in wanted if name in found and found[name].shape != wanted[name].shape]
    lists = {
        "missing": [name for name in wanted if name not in found],
        "unexpected": [name for name in found if name not in wanted],
        "of another shape": [f"{of} is {list(found[of].shape)} instead of {list(wanted[of].shape)}" for of in other],
    }
    return "; ".join(
        f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
        for what, names in lists.items()
        if names
    )


def sines_and_cosines(grid: tuple[int, int], width: int) -> Tensor:
    """Return fixed position embeddings [L, D]: a quarter each for sine and cosine of column and row, base 10 000."""
    if width % 4:
        raise OODError(f"fixed positions need a width that is a multiple of 4, this backbone has {width}")
    rates = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    rows, columns = torch.meshgrid(*(torch.arange(size, dtype=torch.float64) for size in grid), indexing="ij")
    angles = [axis.flatten().unsqueeze(1) * rates for axis in (columns, rows)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], 1).float()
