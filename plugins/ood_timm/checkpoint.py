"""Reads checkpoints of timm models from files; strict, and never a pickle.

Those that methods of pre-training have published are recognised by their keys and get the names of timm's models.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ood_core.errors import OODError, suggest
from ood_timm.creation import create, own_image_size
from ood_timm.network import TimmModel

_ENTRIES = ("state_dict", "model", "model_state_dict", "module", "network", "net", "weights", "teacher", "student")
"""What training scripts call the network in a checkpoint; of DINO's two, the teacher is the better network."""

_EMA = re.compile(r"(^|_)ema(_|$)", re.IGNORECASE)
_COMPUTED = "relative_position_index"  # in the files of BEiT; timm leaves it out
_COMPILED, _COUNT = "_orig_mod.", "n_averaged"  # what torch.compile puts into keys, and AveragedModel beside them
_CONVERTED = "base_encoder"  # of MoCo v3, whose projector is taken off with it
_SHOWN = 3  # keys of each kind that an error names
_UNFIT = (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError)
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
    """Return the encoder of a checkpoint, in a known layout or timm's, in that of the model's state dict `wanted`."""
    layout = next((layout for layout in _LAYOUTS if any(key.startswith(layout.sign) for key in state)), None)
    if layout is not None:
        state = {key.removeprefix(layout.encoder): state[key] for key in state if not key.startswith(layout.besides)}
    state = dict(state)
    tables = [name for name in wanted if _TABLE.fullmatch(name)]
    if _SHARED_TABLE in state and tables:  # every block gets its copy of the table that BEiT's share in pre-training
        kept = {key: tensor for key, tensor in state.items() if not key.startswith("rel_pos_bias.")}
        state = kept | dict.fromkeys(tables, state[_SHARED_TABLE])
    if (layout is None and "norm.weight" not in state) or "head.weight" in state:
        return Converted(state)
    if "fc_norm.weight" not in wanted or "fc_norm.weight" in state:
        return Converted(state)
    # the norm behind mean pooling starts anew, in models that have it instead of one that pre-training trained
    kept = {key: tensor for key, tensor in state.items() if not key.startswith("norm.")}
    initial = {"weight": torch.ones_like, "bias": torch.zeros_like}
    norm = {f"fc_norm.{part}": make(wanted[f"fc_norm.{part}"], device="cpu") for part, make in initial.items()}
    return Converted(kept | norm, ("fc_norm",))


def read(path: Path, key: str | None = None, shapes: bool = False) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file or of a state dict saved by torch, bare or within a checkpoint.

    `key` is the entry of the checkpoint, or the prefix of keys, to take alone; default: by the usual names. With
    `shapes` the tensors are without values, and no more of the file is read than they need.
    """
    try:
        content = _loaded(path, shapes)
    except FileNotFoundError as error:
        raise OODError(f"no file '{path}'") from error
    except Exception as error:  # what a broken file raises depends on where it is broken
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            reason = f"{found[1]} is no tensor, and not unpickled; torch.save(network.state_dict(), FILE) has none"
        else:
            reason = shorten(f"{type(error).__name__}: {error}", 100)
        raise OODError(f"weights '{path}' are neither safetensors nor a plain state dict: {reason}") from error
    if not isinstance(content, Mapping):
        raise OODError(f"weights '{path}' are no state dict but a {type(content).__name__}")
    state = _unwrapped(content, key, path)
    if not state:  # timm would ask the hub for weights
        raise OODError(f"weights '{path}' are empty")
    if strange := [str(name) for name, of in state.items() if not (isinstance(name, str) and isinstance(of, Tensor))]:
        raise OODError(f"weights '{path}' are no state dict, some entries are no tensors: {_listed(strange)}")
    values = ((name, torch.empty_like(value, device="meta") if shapes else value) for name, value in state.items())
    return {name.replace(_COMPILED, ""): value for name, value in values}


def _loaded(path: Path, shapes: bool) -> Any:
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as opened:
            if shapes:
                sizes = {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118
                return {name: torch.empty(size, device="meta") for name, size in sizes.items()}
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    with torch.serialization.safe_globals([Namespace]):  # the arguments of many training scripts
        try:
            return torch.load(path, "cpu", weights_only=True, mmap=shapes)
        except RuntimeError:
            if not shapes:
                raise
            return torch.load(path, "cpu", weights_only=True)  # of a torch before 1.6, that cannot be mapped


def _unwrapped(content: Mapping[Any, Any], key: str | None, path: Path) -> Mapping[str, Any]:
    """Return the state dict of one network in a checkpoint."""
    if key is not None and isinstance(content.get(key), Mapping):
        return _unwrapped(content[key], None, path)
    entries = [name for name, value in content.items() if _is_network(value)]
    averages = [name for name in entries if _EMA.search(str(name))]
    plain = [name for name in _ENTRIES if name in entries]
    if key is None and averages and (plain or len(averages) > 1):
        both = " and ".join(f"'{name}'" for name in (*averages, *plain))
        raise OODError(
            f"weights '{path}' hold {both}, weights and their moving average (EMA); "
            f"say which by 'weights_key: {averages[0]}' or 'weights_key: {(*plain, *averages[1:])[0]}'"
        )
    if chosen := (*averages, *plain, *entries[: len(entries) == 1])[:1]:
        return _unwrapped(content[chosen[0]], key, path)
    if key is None:
        return content
    below = {name.removeprefix(f"{key}."): value for name, value in content.items() if name.startswith(f"{key}.")}
    if not below:
        known = dict.fromkeys((*map(str, entries), *(str(name).partition(".")[0] for name in content)))
        raise OODError(f"weights '{path}' have no entry or prefix '{key}'.{suggest(key, known)}")
    return below


def _is_network(value: Any) -> bool:
    """Return whether this entry of a checkpoint may be the weights of a network, or holds them."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        return False
    return any(isinstance(one, Tensor) or _is_network(one) for one in value.values()) and "param_groups" not in value


def _without_prefix(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return a state dict without what wrappers put before all keys: `module.`, `model.`, `net.` and their like."""
    own = {key.partition(".")[0] for key in wanted} | {_CONVERTED}
    while True:
        state = {key: value for key, value in state.items() if key != _COUNT}
        first = {key.partition(".")[0] for key in state}
        if len(first) != 1 or first <= own or not all("." in key for key in state):
            return state
        state = {key.partition(".")[2]: value for key, value in state.items()}


def restore(
    name: str, image_size: int, options: Mapping[str, Any], path: Path, key: str | None = None
) -> tuple[TimmModel, tuple[str, ...]]:
    """Return the model with all weights of a file, and the names of modules that the file has nothing for.

    The classifier has as many outputs as in the file. Position embeddings and tables of relative positions for another
    image size are resampled, as timm does with its own checkpoints.
    """
    return _filled(name, image_size, options, path, read(path, key))


def check(name: str, options: Mapping[str, Any], path: Path, key: str | None = None) -> None:
    """Raise OODError where a file does not fit the model, from names and shapes of its weights alone."""
    state = read(path, key, shapes=True)
    try:
        with torch.device("meta"):
            _filled(name, own_image_size(name), options, path, state)
    except OODError as error:
        if not isinstance(error.__cause__, NotImplementedError) and "meta tensor" not in str(error.__cause__):
            raise  # otherwise timm needs values to say, so building the network will


def _filled(
    name: str, image_size: int, options: Mapping[str, Any], path: Path, state: Mapping[str, Tensor]
) -> tuple[TimmModel, tuple[str, ...]]:
    wanted = _wanted(name, image_size, options)
    converted = convert(_without_prefix(state, wanted), wanted)
    outputs = _outputs(name, converted.state)
    source = {"state_dict": converted.state, "custom_load": False, "label_offset": 0} | outputs
    try:
        model = create(name, image_size, {**options, **outputs, "pretrained": True, "pretrained_cfg_overlay": source})
    except _UNFIT as error:
        differences = _differences_from_torch(error) or _differences_from_shapes(
            converted.state, _wanted(name, image_size, {**options, **outputs})
        )
        hint = _fitting(name, image_size, options, state, converted.state.keys())
        raise OODError(
            f"weights '{path}' do not fit timm model '{name}': {differences or shorten(str(error), 200)}{hint}"
        ) from error
    model.pretrained_cfg.pop("state_dict")  # a second copy of all weights
    return model, converted.fresh


def _fitting(
    name: str, image_size: int, options: Mapping[str, Any], state: Mapping[str, Tensor], tried: Set[str]
) -> str:
    """Return below which prefixes there are exactly the keys of the model, if these are not what was tried."""
    wanted, fit = _wanted(name, image_size, options), []
    probe = next(iter(wanted), "")
    for prefix in (key.removesuffix(probe) for key in state if key.endswith(f".{probe}")):
        below = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if len(below) < len(wanted) // 2:  # the same name deeper within the network
            continue
        exact = below.keys() == _wanted(name, image_size, {**options, **_outputs(name, below)}).keys()
        fit += [f"weights_key: {prefix[:-1]}"] if exact and below.keys() != tried else []
    return f"; to take what fits alone: {' or '.join(fit[:_SHOWN])}" if fit else ""


def _wanted(name: str, image_size: int, options: Mapping[str, Any]) -> Mapping[str, Tensor]:
    with torch.device("meta"):
        state: Mapping[str, Tensor] = create(name, image_size, options).state_dict()
        return state


def _outputs(name: str, state: Mapping[str, Tensor]) -> dict[str, int]:
    """Return how many classes the checkpoint has, 0 without a classifier; nothing where timm does not say."""
    import timm

    config = timm.get_pretrained_cfg(name)
    if config is None or not isinstance(config.classifier, str):
        return {}
    weight = state.get(f"{config.classifier}.weight")
    return {"num_classes": 0 if weight is None else len(weight)}


def _differences_from_torch(error: Exception) -> str:
    """Return torch's own list of differences, made short; empty if it never came to loading."""
    text = str(error)
    missing, unexpected = (re.findall(rf"^\s*{kind} key.*$", text, re.M) for kind in ("Missing", "Unexpected"))
    shapes = re.findall(r"size mismatch for (\S+): .*?\[([\d, ]*)\].*?\[([\d, ]*)\]", text)
    return _differences(
        re.findall('"(.*?)"', "".join(missing)),
        re.findall('"(.*?)"', "".join(unexpected)),
        [f"{name} [{given}] for [{wanted}]" for name, given, wanted in shapes],
    )


def _differences_from_shapes(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
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
