"""Reads checkpoints of timm models from files; strict, and never a pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

from torch import Tensor

from ood_core.errors import OODError
from ood_core.vision import prepare_torchvision
from ood_timm.creation import create
from ood_timm.network import TimmModel


def read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file or of a state dict saved by torch.

    Raises:
        OODError: The file is missing, or holds anything else.
    """
    prepare_torchvision()
    import timm.models

    try:
        state: dict[str, Tensor] = timm.models.load_state_dict(str(path), weights_only=True)
    except FileNotFoundError as error:
        raise OODError(f"no file '{path}'") from error
    except Exception as error:  # what a broken file raises depends on where it is broken
        reason = shorten(str(error), 100)
        raise OODError(f"weights '{path}' are neither safetensors nor a plain state dict: {reason}") from error
    return state


def restore(name: str, image_size: int, options: Mapping[str, Any], path: Path) -> TimmModel:
    """Return the model with all weights of a file and a classifier of as many outputs as the file has.

    Position embeddings for another image size are resampled, as timm does with its own checkpoints.

    Raises:
        OODError: Some weight is missing, left over, or of another shape.
    """
    state = read(path)
    outputs = _outputs(name, state)
    source = {"state_dict": state, "custom_load": False, "label_offset": 0} | outputs
    try:
        model = create(name, image_size, {**options, **outputs, "pretrained": True, "pretrained_cfg_overlay": source})
    except (KeyError, RuntimeError, ValueError) as error:
        raise OODError(f"weights '{path}' do not fit timm model '{name}': {_reasons(error)}") from error
    model.pretrained_cfg.pop("state_dict")  # a second copy of all weights
    return model


def _outputs(name: str, state: Mapping[str, Tensor]) -> dict[str, int]:
    """Return how many classes the checkpoint has, 0 without a classifier; nothing where timm does not say."""
    import timm

    config = timm.get_pretrained_cfg(name)
    if config is None or not isinstance(config.classifier, str):
        return {}
    weight = state.get(f"{config.classifier}.weight")
    return {"num_classes": 0 if weight is None else len(weight)}


def _reasons(error: Exception) -> str:
    """Return torch's list of missing, unexpected and ill-shaped keys in one line of bearable length."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    listed = lines[1:] or lines
    return "; ".join(shorten(line.rstrip(". "), 160, placeholder=" ...") for line in listed[:4])
