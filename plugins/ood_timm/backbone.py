"""The backbone `timm`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from textwrap import shorten
from typing import Any

from torch import nn

from ood_core.errors import OODError
from ood_core.interfaces import Backbone, EvaluationView
from ood_timm import checkpoint
from ood_timm.creation import check_name, create, model_info, own_image_size, own_view
from ood_timm.network import TimmModel, TimmNetwork


@dataclass(frozen=True, kw_only=True)
class Timm(Backbone):
    """A model of timm, PyTorch Image Models, by its name; embeddings are its pre-logits.

    Attributes:
        model: timm's name, with the tag of its weights where one is meant, such as vit_tiny_patch16_224.
        pretrained: Whether timm downloads its weights for this name.
        weights: A checkpoint of this model: safetensors, or a state dict saved by torch. Those that BEiT, BEiT v2,
            MoCo v3, MAE and DINO have published are known by their keys. A prefix of all keys is taken off.
        weights_key: Which entry of the checkpoint to take, such as state_dict_ema, or the prefix of keys to take alone.
        options: What timm's model takes, such as embed_dim, depth, num_heads, patch_size, global_pool, drop_path_rate.
    """

    name = "timm"
    model: str
    pretrained: bool = False
    weights: Path | None = None
    weights_key: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Build the model at timm's own image size without values, and compare its weights with those of the file."""
        check_name(self.model)
        if self.pretrained and self.weights is not None:
            raise OODError("backbone 'timm': 'pretrained' and 'weights' both set the initial weights; give one of them")
        if self.weights_key is not None and self.weights is None:
            raise OODError("backbone 'timm': 'weights_key' says what to take of 'weights', which is not given")
        model_info(self.model, own_image_size(self.model), self.options)
        if self.weights is not None:
            checkpoint.check(self.model, self.options, self.weights, self.weights_key)

    def build(self, image_size: int, classes: int | None) -> TimmNetwork:
        check_name(self.model)
        found = model_info(self.model, image_size, self.options)
        make = self._created if self.weights is None else self._restored
        model, fresh = make(image_size, classes)
        network = found.wrap(model)
        network.fresh = fresh
        return network

    def build_empty(self, image_size: int, classes: int | None) -> TimmNetwork:
        return replace(self, pretrained=False, weights=None, weights_key=None).build(image_size, classes)

    def evaluation_view(self) -> EvaluationView:
        """Return timm's data config of the pretrained weights; weights from a file are taken for those of the name."""
        return own_view(self.model) if self.pretrained or self.weights is not None else EvaluationView()

    def _created(self, image_size: int, classes: int | None) -> tuple[TimmModel, tuple[str, ...]]:
        options = self.options if classes is None else {**self.options, "num_classes": classes}
        if not self.pretrained:
            return create(self.model, image_size, options), ()
        try:
            model = create(self.model, image_size, {**options, "pretrained": True})
        except (OSError, RuntimeError) as error:
            reason = shorten(str(error), 120)
            raise OODError(f"timm has no weights for '{self.model}', or cannot download them: {reason}") from error
        return model, () if classes in (None, model.pretrained_cfg["num_classes"]) else (_classifier(model),)

    def _restored(self, image_size: int, classes: int | None) -> tuple[TimmModel, tuple[str, ...]]:
        assert self.weights is not None, "called only with weights"
        model, fresh = checkpoint.restore(self.model, image_size, self.options, self.weights, self.weights_key)
        weight = getattr(model.get_classifier(), "weight", ())
        if classes in (None, len(weight)):
            return model, fresh
        model.reset_classifier(classes)
        return model, (*fresh, _classifier(model))


def _classifier(model: TimmModel) -> str:
    modules: dict[str, nn.Module] = dict(model.named_modules())
    return next(name for name, module in modules.items() if module is model.get_classifier())
