"""Weights from a file, compared with the module they are for before they are put into it."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ood_core.errors import OODError
from ood_core.interfaces.building_blocks import state_differences

M = TypeVar("M", bound=nn.Module)

# torch says it in many ways, depending on where its reader stumbles
_UNREADABLE = (SafetensorError, pickle.UnpicklingError, EOFError, LookupError, OSError, RuntimeError, ValueError)


def load(build: Callable[[], M], path: Path) -> M:
    """Return the module that `build` makes, in float32 with the weights of a file.

    Raises:
        OODError: The file cannot be read, or has other weights.
    """
    with torch.device("meta"):  # what is replaced at once need not be drawn
        module = build()
    found, wanted = read(path), module.state_dict()
    if wrong := state_differences(found, wanted):
        raise OODError(f"'{path}' has not the weights of DALL-E's {type(module).__name__.lower()}: {wrong}")
    module.load_state_dict({name: tensor.float() for name, tensor in found.items()}, assign=True)
    return module


def read(path: Path) -> Mapping[str, Tensor]:
    """Return the tensors of a safetensors file or of a state dict that torch has saved.

    Raises:
        OODError: It is neither.
    """
    try:
        found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except _UNREADABLE as error:
        if "Unsupported global" in str(error):  # what OpenAI published
            raise OODError(
                f"'{path}' is a pickled module, which could run any code; where dall_e is installed, convert it: "
                f"torch.save(torch.load('{path.name}', weights_only=False).state_dict(), '{path.stem}.pt')"
            ) from error
        raise OODError(f"'{path}' is no file of weights, or a damaged one; .safetensors and .pt are read") from error
    if not isinstance(found, Mapping) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise OODError(f"'{path}' holds no state dict, which has a tensor for every name")
    return found
