"""Parts of tasks that hide patches: errors averaged over masks, and the differences between two state dicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

_SHOWN = 3  # names of a list that would be too long


def mean_over_masks(masks: Tensor, errors: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the mean error of each patch over the masks that hide it, float32 [B, L].

    Args:
        masks: bool [K, L]; each patch is hidden by one of them or more.
        errors: Gives the errors [B, L] of all patches under one mask, bool [L]; those of visible ones do not count.
    """
    # one mask after the other: all at once would need K times the memory
    hidden = [torch.where(mask, errors(mask).float(), 0.0) for mask in masks]
    return torch.stack(hidden).sum(0) / masks.sum(0)


def state_differences(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Return in a few words how tensors differ from those wanted in name and shape; "" if they do not."""
    lists = {
        "missing": [name for name in wanted if name not in found],
        "unexpected": [name for name in found if name not in wanted],
        "of another shape": [
            f"{name} is {list(found[name].shape)} instead of {list(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in found and found[name].shape != tensor.shape
        ],
    }
    return "; ".join(
        f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
        for what, names in lists.items()
        if names
    )
