"""A timm model as a network: it normalises for itself, and can hide patches where it has any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ood_core.interfaces import Network, PatchNetwork


class TimmModel(Protocol):
    """What all of timm's classifiers share."""

    pretrained_cfg: dict[str, Any]
    feature_info: Any

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map."""

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits, or embeddings."""

    def get_classifier(self) -> nn.Module:
        """Return the last layer."""

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last layer."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return the weights by name."""


class TimmNetwork(Network):
    """A timm model of any family."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: TimmModel, num_features: int) -> None:
        super().__init__()
        self.model = model
        self.num_features = num_features
        for statistic in ("mean", "std"):
            # not persistent: the statistics belong to the model's name, not to its weights
            values = torch.tensor(model.pretrained_cfg[statistic]).view(3, 1, 1)
            self.register_buffer(statistic, values, persistent=False)

    def forward_features(self, images: Tensor) -> Tensor:
        """Return timm's features of the normalised images."""
        return self.model.forward_features((images - self.mean) / self.std)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return timm's logits [B, C], or its pre-logits [B, D]."""
        return self.model.forward_head(features, pre_logits=pre_logits)

    def get_classifier(self) -> nn.Module:
        """Return timm's classifier; a 1x1 convolution in BiT."""
        return self.model.get_classifier()

    def reset_classifier(self, num_classes: int) -> None:
        """Replace timm's classifier by a fresh one."""
        self.model.reset_classifier(num_classes)

    def layer_names(self) -> tuple[str, ...]:
        """Return the layers that timm lists as a model's features: stages of a ResNet, blocks of a ViT."""
        listed = getattr(self.model, "feature_info", None) or []  # a plain list, or timm's FeatureInfo around one
        return tuple(f"model.{info['module']}" for info in getattr(listed, "info", listed))


class TimmPatchNetwork(TimmNetwork, PatchNetwork):
    """A timm model with a patch embedding and one token a patch at the end: ViT, BEiT, Mixer and hybrids."""

    def __init__(self, model: TimmModel, num_features: int, embedding: str, grid: tuple[int, int]) -> None:
        super().__init__(model, num_features)
        self.embedding = embedding
        self.grid = grid

    def patch_projection(self) -> nn.Module:
        """Return timm's patch embedding; in a hybrid this is the whole convolutional part."""
        return self.get_submodule(f"model.{self.embedding}")

    def forward_masked(self, images: Tensor, mask: Tensor, mask_token: Tensor) -> Tensor:
        """Return the encoded patch tokens [B, L, D], without class and register tokens."""

        def hide(_layer: nn.Module, _images: tuple[Tensor, ...], patches: Tensor) -> Tensor:
            return torch.where(mask.unsqueeze(-1), mask_token.to(patches.dtype), patches)

        # a hook, so that each family's own forward adds positions and further tokens behind the patch embedding
        with self.patch_projection().register_forward_hook(hide):
            tokens = self.forward_features(images)
        return tokens[:, -mask.shape[1] :]
