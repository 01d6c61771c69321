"""The network that is trained and scored, and the plugin that makes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from ood_core.errors import OODError
from ood_core.interfaces.data import EvaluationView
from ood_core.interfaces.plugin import Plugin


class Network(nn.Module, ABC):
    """A backbone with its classification head, under timm's method names. Takes images [B, 3, S, S] in [0, 1].

    In evaluation mode outputs are finite floats and belong to each image alone, whatever is passed with it, and when.
    """

    num_features: int
    """D, the width of the embeddings."""

    @abstractmethod
    def forward_features(self, images: Tensor) -> Tensor:
        """Return the last feature map, in whatever layout `forward_head` takes."""

    @abstractmethod
    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits [B, C], or with `pre_logits` the embeddings [B, D] that the classifier is given."""

    @abstractmethod
    def get_classifier(self) -> nn.Module:
        """Return the linear layer (or 1x1 convolution) from embeddings to logits; `nn.Identity` without logits.

        Any other module means that logits are computed in another way.
        """

    @abstractmethod
    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by a fresh one with this many outputs."""

    def layer_names(self) -> tuple[str, ...]:
        """Return the names of submodules with intermediate embeddings, in order; default: the sequential children."""
        return tuple(name for name, child in self.named_children() if isinstance(child, nn.Sequential))

    def parameter_depths(self) -> Mapping[str, int]:
        """Return parameters' depths by name, 0 at the first layer, for layer-wise decay; default: all have the same."""
        return {}

    def undecayed(self) -> Collection[str]:
        """Return the names of parameters without weight decay, besides the one-dimensional ones."""
        return ()

    def set_drop_path(self, rate: float) -> None:
        """Drop residual branches in training, more often the deeper they are, up to this rate; OODError without any."""
        if rate > 0:
            raise OODError("this backbone cannot drop paths; leave 'drop_path' at 0")

    def set_gradient_checkpointing(self) -> None:
        """Compute activations again in the backward pass instead of keeping them; OODError if that is impossible."""
        raise OODError("this backbone cannot checkpoint gradients; leave 'gradient_checkpointing' at false")

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, C]."""
        return self.forward_head(self.forward_features(images))


class PatchNetwork(Network):
    """A network that cuts the image into patches and can have some of them hidden, as masked image modelling needs."""

    grid: tuple[int, int]
    """Patches along height and width; L is their product."""

    @abstractmethod
    def patch_projection(self) -> nn.Module:
        """Return the layer that turns pixels into patch embeddings [B, L, D]."""

    @abstractmethod
    def forward_masked(self, images: Tensor, mask: Tensor, mask_token: Tensor) -> Tensor:
        """Return the encoded patch tokens [B, L, D] of images [B, 3, S, S], after hiding those of a mask, bool [B, L].

        The mask token [D] stands in for hidden patch embeddings, before position information is added.
        """

    def forward_visible(self, images: Tensor, visible: Tensor) -> Tensor:
        """Return the encoded tokens [B, K, D] of the visible patches, int64 [B, K]; the others are left out.

        Raises:
            OODError: The network needs all patches, as those with relative positions or mixing layers do.
        """
        raise OODError("this backbone cannot leave patches out; choose a ViT with absolute positions")

    def tie_position_biases(self) -> None:
        """Share one table of relative positions, if any, among all blocks, until weights are loaded elsewhere."""

    def fix_positions(self) -> None:
        """Replace trained absolute position embeddings, if there are any, by fixed 2-dimensional sines and cosines."""


@dataclass(frozen=True, kw_only=True)
class Backbone(Plugin):
    """Makes the network that is trained and whose outputs are scored."""

    @abstractmethod
    def build(self, image_size: int, classes: int | None) -> Network:
        """Return a network in its initial state: random under torch's seed, or pretrained.

        Its classifier has `classes` outputs; None leaves the one that the backbone comes with.
        """

    def build_empty(self, image_size: int, classes: int | None) -> Network:
        """Return a network as `build` does, into which the weights of a training or a saved detector are loaded.

        Override it where `build` reads a file or downloads: neither may be available then.
        """
        return self.build(image_size, classes)

    def evaluation_view(self) -> EvaluationView:
        """Return the evaluation view of its pretrained weights, for recipes without `evaluation`."""
        return EvaluationView()
