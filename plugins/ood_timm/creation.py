"""Makes timm models from names and options, and puts what timm objects to into words."""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ood_core.errors import OODError, abridge, suggest
from ood_core.interfaces import EvaluationView
from ood_core.runtime.torchvision_compat import prepare_torchvision
from ood_timm.network import TimmModel, TimmNetwork, TimmPatchNetwork

_SET_ELSEWHERE = {"checkpoint_path", "device", "dtype", "features_only", "img_size", "in_chans", "num_classes"}
_SET_ELSEWHERE |= {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay"}
_LARGEST = 100_000  # of a number in the options; timm makes lists as long as a depth before any layer
_LAYERS = ("depth", "depths", "layers")
_MOST_LAYERS = 1000  # a mistake would be built for hours, even without values


def import_timm() -> ModuleType:
    """Return timm, which works beside a CPU build of torch only after this."""
    prepare_torchvision()
    import timm  # slow

    return timm


def check_name(name: str) -> None:
    """Raise OODError unless timm has this model, and weights of this tag if there is one."""
    timm = import_timm()
    if "." not in name and timm.is_model(name):  # the lists take milliseconds
        return
    # timm lists a tag only where it has weights for it
    known = {*timm.list_models(), *timm.list_pretrained()}
    if name not in known:
        raise OODError(f"no timm model '{name}'.{suggest(name, get_close_matches(name, known, n=3, cutoff=0))}")


def create(name: str, image_size: int, options: Mapping[str, Any]) -> TimmModel:
    """Return a timm model for images of this size; it may raise whatever timm raises."""
    timm = import_timm()
    config = timm.get_pretrained_cfg(name)
    # timm's own sign for models that are built for one size of image, such as those with position embeddings
    size: dict[str, Any] = {"img_size": image_size} if config is not None and config.fixed_input_size else {}
    return timm.create_model(name, **size, **options)


def own_image_size(name: str) -> int:
    """Return the image size that timm gives this model."""
    config = import_timm().get_pretrained_cfg(name)
    return 224 if config is None else int(config.input_size[-1])


def own_view(name: str) -> EvaluationView:
    """Return how timm shows images to the weights of this name."""
    config = import_timm().get_pretrained_cfg(name)
    if config is None:
        return EvaluationView()
    smooth: Literal["bilinear", "bicubic"] = "bilinear" if config.interpolation == "bilinear" else "bicubic"
    return EvaluationView(crop_fraction=config.crop_pct, interpolation=smooth, squash=config.crop_mode == "squash")


@dataclass(frozen=True)
class ModelInfo:
    """Facts on a model that need no weights."""

    num_features: int  # width of the pre-logits
    embedding: str | None  # name of the patch embedding; None unless every patch has one token in the features
    grid: tuple[int, int]  # patches along height and width; (0, 0) without a patch embedding

    def wrap(self, model: TimmModel) -> TimmNetwork:
        """Return the model as a network."""
        if self.embedding is None:
            return TimmNetwork(model, self.num_features)
        return TimmPatchNetwork(model, self.num_features, self.embedding, self.grid)


_EXAMINED: dict[tuple[str, int, str], ModelInfo] = {}


def model_info(name: str, image_size: int, options: Mapping[str, Any]) -> ModelInfo:
    """Return the facts on a model; raise OODError if its options do not fit.

    They are kept: a run builds the same model for its plan and for each of its stages.
    """
    try:
        key = name, image_size, json.dumps(options, sort_keys=True)
    except TypeError:  # no option of a recipe
        return _examine(name, image_size, options)
    if key not in _EXAMINED:
        _EXAMINED[key] = _examine(name, image_size, options)
    return _EXAMINED[key]


def _examine(name: str, image_size: int, options: Mapping[str, Any]) -> ModelInfo:
    """Run the model once on the meta device, where nothing is computed; raise OODError if its options do not fit."""
    what = f"timm model '{name}'"
    for option in sorted(_SET_ELSEWHERE & options.keys()):
        raise OODError(f"{what}: leave '{option}' out of the options, it is set from elsewhere")
    for option, value in options.items():
        largest = max(_whole_numbers(value), default=0)
        if option in _LAYERS and largest > _MOST_LAYERS:
            raise OODError(f"{what}: '{option}' is {value}, more than {_MOST_LAYERS} layers")
        if largest > _LARGEST:
            raise OODError(f"{what}: option '{option}' is larger than {_LARGEST}")
    try:
        with torch.device("meta"):
            # in training mode, two images: batch normalisation works, and dropped patches are seen to be missing
            model, images = create(name, image_size, options), torch.empty(2, 3, image_size, image_size)
            features = model.forward_features(images)
            embeddings = model.forward_head(features, pre_logits=True)
            if embeddings.ndim != 2:
                hint = "set 'global_pool' in its options"
                raise OODError(f"{what} must pool its features to one vector an image; {hint}")
            classifier = model.get_classifier()
            if not isinstance(classifier, (nn.Linear, nn.Conv2d, nn.Identity)):
                raise OODError(f"{what} has a {type(classifier).__name__} for a classifier, not one linear layer")
            return ModelInfo(embeddings.shape[1], *_patch_embedding(model, images, features, what))
    except (OODError, MemoryError):
        raise
    except Exception as error:  # options reach any line of timm, which does not check them
        raise OODError(_explained(name, image_size, error)) from error


def _whole_numbers(value: Any) -> Iterator[int]:
    if isinstance(value, int):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _whole_numbers(inner)


def _patch_embedding(
    model: TimmModel, images: Tensor, features: Tensor, what: str
) -> tuple[str | None, tuple[int, int]]:
    """Return the name of the patch embedding and its grid, or (None, (0, 0)) for models without patch tokens."""
    named = ((name, getattr(model, name, None)) for name in ("patch_embed", "stem"))  # the latter is MLP-Mixer's
    layers: dict[str, Any] = {name: layer for name, layer in named if hasattr(layer, "grid_size")}
    for layer in layers.values():
        ratio = getattr(layer, "feat_ratio", None)
        if ratio and layer.grid_size[0] * ratio() != images.shape[-1]:
            size = images.shape[-1]
            raise OODError(f"{what}: the image size {size} is not a multiple of the patch size {ratio()}")
    for name, layer in layers.items():
        patches, grid = layer(images), layer.grid_size
        tokens = math.prod(grid) + getattr(model, "num_prefix_tokens", 0)
        if patches.ndim == 3 and features.shape == (len(images), tokens, patches.shape[2]):
            return name, (int(grid[0]), int(grid[1]))
    return None, (0, 0)


def _explained(name: str, image_size: int, error: Exception) -> str:
    text = abridge(str(error).partition("\n")[0], 200) or "its patches may not divide this size"
    if isinstance(error, TypeError) and (found := re.search(r"(unexpected|multiple).*?'(\w+)'", text)):
        option = found[2]
        if found[1] == "multiple":
            return f"timm model '{name}' sets the option '{option}' itself; leave it out, or choose another model"
        with torch.device("meta"):
            model = create(name, own_image_size(name), {})
        known = sorted(inspect.signature(type(model)).parameters.keys() - _SET_ELSEWHERE)
        return f"timm model '{name}' has no option '{option}'.{suggest(option, known)}"
    kind = f"{type(error).__name__}: " if isinstance(error, (LookupError, ArithmeticError)) else ""  # "0" says little
    return f"timm cannot build '{name}' at {image_size} pixels with these options: {kind}{text}"
