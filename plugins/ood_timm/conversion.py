"""Converts published checkpoints of pre-training to the names of timm models; their keys identify the method."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

_SHARED_TABLE = "rel_pos_bias.relative_position_bias_table"
_TABLE = re.compile(r"blocks\.\d+\.attn\.relative_position_bias_table")


@dataclass(frozen=True)
class _Layout:
    """Keys in the checkpoints of one method."""

    sign: str  # prefix of a key that only this method has
    encoder: str  # prefix of the encoder's keys
    besides: tuple[str, ...]  # prefixes of keys that only pre-training needs; all others must fit the model


_LAYOUTS = (
    # MoCo v3 puts its projector in place of the classifier: 'head' in a ViT, 'fc' in a ResNet
    _Layout(
        "base_encoder.", "base_encoder.", ("base_encoder.head.", "base_encoder.fc.", "momentum_encoder.", "predictor.")
    ),
    _Layout("backbone.", "backbone.", ("head.",)),  # DINO
    _Layout("decoder_", "", ("mask_token", "decoder_")),  # MAE
    # BEiT and BEiT v2; fine-tuned ones too, which hold nothing besides
    _Layout("blocks.0.attn.q_bias", "", ("mask_token", "lm_head.", "cls_pt_layers.")),
)


@dataclass(frozen=True)
class Converted:
    """The weights of a checkpoint under timm's names."""

    state: dict[str, Tensor]  # weights by name
    fresh: tuple[str, ...] = ()  # modules without weights in the checkpoint, initialised anew; without the classifier


def convert(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Converted:
    """Return the encoder of a checkpoint in the layout of the model.

    Args:
        state: The checkpoint, in any of the known layouts or in timm's own.
        wanted: The model's own state dict; only names and shapes matter.
    """
    layout = next((layout for layout in _LAYOUTS if any(key.startswith(layout.sign) for key in state)), None)
    if layout is not None:
        state = {key.removeprefix(layout.encoder): state[key] for key in state if not key.startswith(layout.besides)}
    state = _with_tables(state, wanted)
    if (layout is None and "norm.weight" not in state) or "head.weight" in state:
        return Converted(state)
    return _with_pooled_norm(state, wanted)


def _with_tables(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give every block its copy of the table of relative positions that BEiT's blocks share in pre-training."""
    tables = [name for name in wanted if _TABLE.fullmatch(name)]
    if _SHARED_TABLE not in state or not tables:
        return dict(state)
    kept = {key: tensor for key, tensor in state.items() if not key.startswith("rel_pos_bias.")}
    return kept | dict.fromkeys(tables, state[_SHARED_TABLE])


def _with_pooled_norm(state: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> Converted:
    """Start the norm behind mean pooling anew, in models that have it instead of one that pre-training trained."""
    if "fc_norm.weight" not in wanted or "fc_norm.weight" in state:
        return Converted(state)
    kept = {key: tensor for key, tensor in state.items() if not key.startswith("norm.")}
    initial = {"weight": torch.ones_like, "bias": torch.zeros_like}
    norm = {f"fc_norm.{part}": make(wanted[f"fc_norm.{part}"], device="cpu") for part, make in initial.items()}
    return Converted(kept | norm, ("fc_norm",))
