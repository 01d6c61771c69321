"""Parts of tasks that hide patches: errors averaged over masks, and modules kept as tensors and revived from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from ood_core.errors import OODError

M = TypeVar("M", bound=nn.Module)

_SHOWN = 3  # names of a list that would be too long


def averaged(masks: Tensor, errors: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the mean error of each patch over the masks that hide it, float32 [B, L].

    Args:
        masks: bool [K, L]; each patch is hidden by one of them or more.
        errors: Gives the errors [B, L] of all patches under one mask, bool [L]; those of visible ones do not count.
    """
    # one mask after the other: all at once would need K times the memory
    hidden = [torch.where(mask, errors(mask).float(), 0.0) for mask in masks]
    return torch.stack(hidden).sum(0) / masks.sum(0)


def besides(module: nn.Module, *children: str) -> dict[str, Tensor]:
    """Return the state dict of a module without what belongs to these children of it."""
    state = module.state_dict()
    return {name: tensor for name, tensor in state.items() if name.partition(".")[0] not in children}


def restore(module: M, kept: Mapping[str, Tensor], what: str, *children: str) -> M:
    """Return the module, in evaluation mode, with copies of the kept tensors in place of its own.

    Built under `torch.device("meta")` it costs no memory and draws no random numbers before. Each part stays on the
    device that it is on; the module's `to` brings them together. Parameters require gradients as they did: torch's
    choice among kernels, and with it the last bit of what they compute, depends on that.

    Args:
        module: All that is in its state dict is replaced.
        kept: What `besides` has given for such a module with the same children.
        what: Whose tensors they are, for the message: "pretext 'mim'".
        children: Those that hold their tensors already.

    Raises:
        OODError: Tensors are missing, foreign or of another shape; names them.
    """
    wanted = besides(module, *children)
    if wrong := differences(kept, wanted):
        raise OODError(f"{what}: the kept tensors are not those of these options: {wrong}")
    # copies, so that nothing is shared with a mapped file, and memory is aligned as it was in the training
    own = {name: kept[name].to(tensor.dtype, copy=True) for name, tensor in wanted.items()}
    module.load_state_dict(own, strict=False, assign=True)
    return module.eval()


def differences(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Return in a few words how tensors differ from those wanted in name and shape; "" where they do not."""
    shapes = [
        f"{name} is {list(found[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in found and found[name].shape != tensor.shape
    ]
    lists = {
        "missing": [name for name in wanted if name not in found],
        "unexpected": [name for name in found if name not in wanted],
        "of another shape": shapes,
    }
    return "; ".join(f"{len(names)} {what}: {_some(names)}" for what, names in lists.items() if names)


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
