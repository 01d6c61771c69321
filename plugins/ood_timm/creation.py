"""Makes timm models from names and options, and puts what timm objects to into words."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from ood_core.errors import OODError, suggest
from ood_core.interfaces import EvaluationView
from ood_core.runtime.torchvision_compat import prepare_torchvision
from ood_timm.network import TimmModel, TimmNetwork, TimmPatchNetwork

_SET_ELSEWHERE = {"checkpoint_path", "device", "dtype", "features_only", "img_size", "in_chans", "num_classes"} | {
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
}
_OBJECTIONS = (AssertionError, AttributeError, RuntimeError, TypeError, ValueError)


def check_name(name: str) -> None:
    """Raise OODError unless timm has this model, and weights of this tag if there is one."""
    prepare_torchvision()
    import timm

    # timm lists a tag only where it has weights for it
    known = {*timm.list_models(), *timm.list_pretrained()}
    if name not in known:
        raise OODError(f"no timm model '{name}'.{suggest(name, get_close_matches(name, known, n=3, cutoff=0))}")


def create(name: str, image_size: int, options: Mapping[str, Any]) -> TimmModel:
    """Return a timm model for images of this size; it may raise whatever timm raises."""
    prepare_torchvision()
    import timm

    config = timm.get_pretrained_cfg(name)
    # timm's own sign for models that are built for one size of image, such as those with position embeddings
    size: dict[str, Any] = {"img_size": image_size} if config is not None and config.fixed_input_size else {}
    return cast(TimmModel, timm.create_model(name, **size, **options))


def own_image_size(name: str) -> int:
    """Return the image size that timm gives this model."""
    prepare_torchvision()
    import timm

    config = timm.get_pretrained_cfg(name)
    return 224 if config is None else int(config.input_size[-1])


def own_view(name: str) -> EvaluationView:
    """Return how timm shows images to the weights of this name."""
    prepare_torchvision()
    import timm

    config = timm.get_pretrained_cfg(name)
    if config is None:
        return EvaluationView()
    smooth: Literal["bilinear", "bicubic"] = "bilinear" if config.interpolation == "bilinear" else "bicubic"
    return EvaluationView(crop_fraction=config.crop_pct, interpolation=smooth, squash=config.crop_mode == "squash")


@dataclass(frozen=True)
class Survey:
    """What is known of a model before it has weights.

    Attributes:
        num_features: Width of the pre-logits.
        embedding: Name of the patch embedding, where every patch has one token in the features.
        grid: Patches along height and width; (0, 0) without a patch embedding.
    """

    num_features: int
    embedding: str | None
    grid: tuple[int, int]

    def wrap(self, model: TimmModel) -> TimmNetwork:
        """Return the model as a network."""
        if self.embedding is None:
            return TimmNetwork(model, self.num_features)
        return TimmPatchNetwork(model, self.num_features, self.embedding, self.grid)


def survey(name: str, image_size: int, options: Mapping[str, Any]) -> Survey:
    """Run the model once on the meta device, where nothing is computed, so that mistakes come out before any work.

    Raises:
        OODError: The options do not fit the model, or the model does not fit the framework.
    """
    for option in sorted(_SET_ELSEWHERE & options.keys()):
        raise OODError(f"timm model '{name}': leave '{option}' out of the options, it is set from elsewhere")
    try:
        with torch.device("meta"):
            model = create(name, image_size, options)
            return _observe(model, torch.empty(2, 3, image_size, image_size), f"timm model '{name}'")
    except _OBJECTIONS as error:
        raise OODError(_explained(name, image_size, error)) from error


def _observe(model: TimmModel, images: Tensor, what: str) -> Survey:
    # in training mode and with two images: batch normalisation works, and dropped patches are seen to be missing
    features = model.forward_features(images)
    embeddings = model.forward_head(features, pre_logits=True)
    if embeddings.ndim != 2:
        raise OODError(f"{what} must pool its features to one vector an image; set 'global_pool' in its options")
    classifier = model.get_classifier()
    if not isinstance(classifier, (nn.Linear, nn.Conv2d, nn.Identity)):
        raise OODError(f"{what} has a {type(classifier).__name__} for a classifier, not one linear layer")
    _check_divisible(model, images.shape[-1], what)
    embedding, grid = _patch_embedding(model, images, features)
    return Survey(embeddings.shape[1], embedding, grid)


def _check_divisible(model: TimmModel, image_size: int, what: str) -> None:
    for layer, grid in _embeddings(model).values():
        if (ratio := getattr(layer, "feat_ratio", None)) and grid[0] * ratio() != image_size:
            raise OODError(f"{what}: the image size {image_size} is not a multiple of the patch size {ratio()}")


def _embeddings(model: TimmModel) -> dict[str, tuple[nn.Module, tuple[int, int]]]:
    """Return the layers that know their patch grid, by name; MLP-Mixer calls its patch embedding stem."""
    layers = {name: getattr(model, name, None) for name in ("patch_embed", "stem")}
    return {name: (layer, layer.grid_size) for name, layer in layers.items() if layer and hasattr(layer, "grid_size")}


def _patch_embedding(model: TimmModel, images: Tensor, features: Tensor) -> tuple[str | None, tuple[int, int]]:
    """Return the name of the patch embedding and its grid, or (None, (0, 0)) for models without patch tokens."""
    for name, (layer, grid) in _embeddings(model).items():
        patches = layer(images)
        tokens = math.prod(grid) + getattr(model, "num_prefix_tokens", 0)
        if patches.ndim == 3 and features.shape == (len(images), tokens, patches.shape[2]):
            return name, (int(grid[0]), int(grid[1]))
    return None, (0, 0)


def _explained(name: str, image_size: int, error: Exception) -> str:
    text = (str(error).splitlines() or ["its patches may not divide this size"])[0]
    if not isinstance(error, TypeError) or not (found := re.search(r"(unexpected|multiple).*?'(\w+)'", text)):
        return f"timm cannot build '{name}' at {image_size} pixels with these options: {text}"
    option = found[2]
    if found[1] == "multiple":
        return f"timm model '{name}' sets the option '{option}' itself; leave it out, or choose another model"
    return f"timm model '{name}' has no option '{option}'.{suggest(option, _options_of(name))}"


def _options_of(name: str) -> list[str]:
    with torch.device("meta"):
        model = create(name, own_image_size(name), {})
    return sorted(inspect.signature(type(model)).parameters.keys() - _SET_ELSEWHERE)
