"""A timm model as a network: it normalises for itself, and can hide patches where it has any."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ood_core.interfaces import Network, PatchNetwork
from ood_core.interfaces.building_blocks import sines_and_cosines

TimmModel: TypeAlias = Any  # a classifier of timm: they share the names of methods, but no class


class TimmNetwork(Network):
    """A timm model of any family."""

    mean: Tensor
    std: Tensor
    fresh: tuple[str, ...] = ()
    """Modules that the initial weights say nothing of and that start at random; empty where all do."""

    def __init__(self, model: TimmModel, num_features: int) -> None:
        super().__init__()
        self.model = model
        self.num_features = num_features
        for statistic in ("mean", "std"):
            # not persistent: the statistics belong to the model's name, not to its weights
            values = torch.tensor(model.pretrained_cfg[statistic]).view(3, 1, 1)
            self.register_buffer(statistic, values, persistent=False)

    def forward_features(self, images: Tensor) -> Tensor:
        features: Tensor = self.model.forward_features((images - self.mean) / self.std)
        return features

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        outputs: Tensor = self.model.forward_head(features, pre_logits=pre_logits)
        return outputs

    def get_classifier(self) -> nn.Module:
        """Return timm's classifier; a 1x1 convolution in BiT."""
        classifier: nn.Module = self.model.get_classifier()
        return classifier

    def reset_classifier(self, num_classes: int) -> None:
        self.model.reset_classifier(num_classes)

    def parameter_depths(self) -> dict[str, int]:
        """Return timm's layers: 0 the patch embedding and what joins it, one for each block, the head the last."""
        from timm.models import group_parameters  # slow

        if not hasattr(self.model, "group_matcher"):
            return {}
        found = group_parameters(self.model, self.model.group_matcher(coarse=False), reverse=True)
        return {f"model.{name}": depth for name, depth in found.items()}

    def undecayed(self) -> set[str]:
        """Return what timm exempts: class tokens, position embeddings, tables of relative positions."""
        return {f"model.{name}" for name in getattr(self.model, "no_weight_decay", set)()}

    def set_drop_path(self, rate: float) -> None:
        """Put timm's DropPath on every residual branch, as timm does with `drop_path_rate`; at 0 that option stays."""
        if rate == 0:
            return
        blocks = [block for block in self.modules() if _branches(block)]
        if not blocks:
            super().set_drop_path(rate)
        from timm.layers.drop import DropPath  # slow

        for number, block in enumerate(blocks):
            own = rate * number / max(len(blocks) - 1, 1)
            for name in _branches(block):
                setattr(block, name, DropPath(own) if own > 0 else nn.Identity())

    def set_gradient_checkpointing(self) -> None:
        try:
            self.model.set_grad_checkpointing(True)
        except (AssertionError, AttributeError, NotImplementedError):
            super().set_gradient_checkpointing()

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

    def forward_visible(self, images: Tensor, visible: Tensor) -> Tensor:
        """Return the encoded tokens [B, K, D] of the visible patches, whose positions are added before others go."""
        selecting = getattr(self.model, "patch_drop", None)
        if not isinstance(selecting, nn.Module) or getattr(self.model, "pos_embed", None) is None:
            return super().forward_visible(images, visible)

        def select(_layer: nn.Module, _tokens: tuple[Tensor, ...], tokens: Tensor) -> Tensor:
            prefix = tokens.shape[1] - self.grid[0] * self.grid[1]
            index = visible.unsqueeze(2).expand(-1, -1, tokens.shape[2])
            return torch.cat((tokens[:, :prefix], tokens[:, prefix:].gather(1, index)), 1)

        with selecting.register_forward_hook(select):
            tokens = self.forward_features(images)
        return tokens[:, -visible.shape[1] :]

    def tie_position_biases(self) -> None:
        """Have the attention of all blocks use the first block's table, as BEiT does in pre-training."""
        name = "relative_position_bias_table"
        holders = [layer for layer in self.modules() if isinstance(getattr(layer, name, None), nn.Parameter)]
        for layer in holders[1:]:
            setattr(layer, name, getattr(holders[0], name))

    def fix_positions(self) -> None:
        """Replace `pos_embed` by fixed sines and cosines, zero for class and register tokens (MoCo v3, MAE)."""
        positions = getattr(self.model, "pos_embed", None)
        if not isinstance(positions, nn.Parameter):
            return
        fixed = sines_and_cosines(self.grid, positions.shape[-1])
        prefix = fixed.new_zeros(positions.shape[1] - len(fixed), fixed.shape[1])
        with torch.no_grad():
            positions.copy_(torch.cat((prefix, fixed)).unsqueeze(0))
        positions.requires_grad_(False)


def _branches(block: nn.Module) -> list[str]:
    """Return the names under which a timm block keeps what drops its residual branches; ResNets have a None there."""
    names = ("drop_path", "drop_path1", "drop_path2", "drop_path3")
    return [name for name in names if isinstance(getattr(block, name, ""), nn.Module | None)]
