"""Reads checkpoints of timm models from files; strict, and never a pickle."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor

from ood_core.errors import OODError
from ood_core.vision import prepare_torchvision
from ood_timm.conversion import convert
from ood_timm.creation import create
from ood_timm.network import TimmModel

_WRAPPERS = ("module", "teacher", "student")  # of DeepSpeed, and DINO, whose teacher is the better network
_COMPUTED = "relative_position_index"  # in the files of BEiT; timm leaves it out
_SHOWN = 3  # keys of each kind that an error names
_UNFIT = (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError)


def read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file or of a state dict saved by torch, bare or as published.

    Raises:
        OODError: The file is missing, or holds anything else.
    """
    prepare_torchvision()
    import timm.models

    try:
        state = timm.models.load_state_dict(str(path), weights_only=True)
        wrapper = next((name for name in _WRAPPERS if isinstance(state.get(name), Mapping)), None)
        state = timm.models.clean_state_dict(state[wrapper]) if wrapper else state
    except FileNotFoundError as error:
        raise OODError(f"no file '{path}'") from error
    except Exception as error:  # what a broken file raises depends on where it is broken
        reason = shorten(str(error), 100)
        raise OODError(f"weights '{path}' are neither safetensors nor a plain state dict: {reason}") from error
    if strange := [str(key) for key, value in state.items() if not isinstance(value, Tensor)]:
        raise OODError(f"weights '{path}' are no state dict, some entries are no tensors: {_listed(strange)}")
    return dict(state)


def restore(name: str, image_size: int, options: Mapping[str, Any], path: Path) -> tuple[TimmModel, tuple[str, ...]]:
    """Return the model with all weights of a file, and the names of modules that the file has nothing for.

    The classifier has as many outputs as in the file. Position embeddings and tables of relative positions for another
    image size are resampled, as timm does with its own checkpoints.

    Raises:
        OODError: Some weight is missing, left over, or of another shape.
    """
    converted = convert(read(path), _wanted(name, image_size, options))
    outputs = _outputs(name, converted.state)
    source = {"state_dict": converted.state, "custom_load": False, "label_offset": 0} | outputs
    try:
        model = create(name, image_size, {**options, **outputs, "pretrained": True, "pretrained_cfg_overlay": source})
    except _UNFIT as error:
        differences = _told(error) or _found(converted.state, _wanted(name, image_size, {**options, **outputs}))
        raise OODError(
            f"weights '{path}' do not fit timm model '{name}': {differences or shorten(str(error), 200)}"
        ) from error
    model.pretrained_cfg.pop("state_dict")  # a second copy of all weights
    return model, converted.fresh


def _wanted(name: str, image_size: int, options: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """Return the model's state dict without values."""
    with torch.device("meta"):
        return create(name, image_size, options).state_dict()


def _outputs(name: str, state: Mapping[str, Tensor]) -> dict[str, int]:
    """Return how many classes the checkpoint has, 0 without a classifier; nothing where timm does not say."""
    import timm

    config = timm.get_pretrained_cfg(name)
    if config is None or not isinstance(config.classifier, str):
        return {}
    weight = state.get(f"{config.classifier}.weight")
    return {"num_classes": 0 if weight is None else len(weight)}


def _told(error: Exception) -> str:
    """Return torch's own list of differences, made short; empty if it never came to loading."""
    text = str(error)
    missing, unexpected = (re.findall(rf"^\s*{kind} key.*$", text, re.M) for kind in ("Missing", "Unexpected"))
    shapes = re.findall(r"size mismatch for (\S+): .*?\[([\d, ]*)\].*?\[([\d, ]*)\]", text)
    return _differences(
        re.findall('"(.*?)"', "".join(missing)),
        re.findall('"(.*?)"', "".join(unexpected)),
        [f"{name} [{given}] for [{wanted}]" for name, given, wanted in shapes],
    )


def _found(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Return the differences of two state dicts, for files that timm stumbles over before it loads them."""
    shapes = {key: (list(state[key].shape), list(wanted[key].shape)) for key in state if key in wanted}
    return _differences(
        [key for key in wanted if key not in state],
        [key for key in state if key not in wanted and not key.endswith(_COMPUTED)],
        [f"{key} {given} for {own}" for key, (given, own) in shapes.items() if given != own],
    )


def _differences(missing: list[str], unexpected: list[str], shapes: list[str]) -> str:
    named = {"Missing keys": missing, "Unexpected keys": unexpected, "size mismatch": shapes}
    return "; ".join(f"{kind}: {len(keys)} ({_listed(keys)})" for kind, keys in named.items() if keys)


def _listed(keys: list[str]) -> str:
    return ", ".join(keys[:_SHOWN] + ["..."] * (len(keys) > _SHOWN))
