"""The masked autoencoder (He et al., 2022): the encoder sees a quarter of the patches, a decoder draws the rest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ood_core.interfaces import Batch, PatchNetwork, Task
from ood_core.interfaces.building_blocks.image_grid import COLUMNS, uncovered
from ood_core.interfaces.building_blocks.masked_errors import averaged, besides
from ood_pixels.patches import cut, fixed_masks, join, random_mask

_LEAST_VARIANCE = 1e-6


@dataclass(frozen=True)
class Decoder:
    """The shape of a decoder.

    Attributes:
        width: Of its tokens.
        depth: Number of blocks.
        heads: Of its attention.
    """

    width: int
    depth: int
    heads: int

    def blocks(self) -> nn.Module:
        """Return transformer blocks with the normalisation before attention and MLP, and one behind them all."""
        blocks = [self._block() for _ in range(self.depth)]  # torch's own stack would begin with copies of one block
        return nn.Sequential(*blocks, nn.LayerNorm(self.width))

    def _block(self) -> nn.Module:
        return nn.TransformerEncoderLayer(
            self.width, self.heads, 4 * self.width, 0.0, "gelu", batch_first=True, norm_first=True
        )


@dataclass(frozen=True)
class Targets:
    """What is drawn of a patch.

    Attributes:
        pixels: Numbers a patch, 3 * P * P.
        normalize: Whether each patch is brought to mean 0 and variance 1.
    """

    pixels: int
    normalize: bool

    def of(self, patches: Tensor) -> Tensor:
        """Return what is to be drawn of patches [B, L, 3 * P * P]."""
        return (patches - patches.mean(2, keepdim=True)) / _deviation(patches) if self.normalize else patches


class MaskedAutoencoderTask(Task):
    """Mean squared error of hidden patches, each normalised by its own mean and deviation if that is wanted."""

    positions: Tensor

    def __init__(
        self, network: PatchNetwork, decoder: Decoder, targets: Targets, hidden: int, positions: Tensor
    ) -> None:
        super().__init__()
        self.network, self.hidden, self.targets = network, hidden, targets
        self.into = nn.Linear(network.num_features, decoder.width)
        self.mask_token = nn.Parameter(nn.init.normal_(torch.empty(decoder.width), std=0.02))
        self.decoder = decoder.blocks()
        self.out = nn.Linear(decoder.width, targets.pixels)
        self.register_buffer("positions", positions)

    def draw(self, images: int) -> Tensor:
        """Return masks, bool [B, L]."""
        return random_mask(images, self.network.grid, self.hidden).flatten(1)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the mean over the hidden patches of the batch."""
        (images,) = batch.views
        mask = (self.draw(len(images)) if batch.drawn is None else batch.drawn).to(images.device)
        targets = self.targets.of(cut(images, self.network.grid))
        return {"loss": (self._predict(images, mask)[mask] - targets[mask]).square().mean()}

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """Return images with what the decoder draws at hidden places, at each patch's true brightness and contrast."""
        images = batch.views[0][:COLUMNS]
        mask, grid = self.draw(len(images)).to(images.device), self.network.grid
        patches = self._predict(images, mask)
        if self.targets.normalize:
            true = cut(images, grid)
            patches = patches * _deviation(true) + true.mean(2, keepdim=True)
        guessed = join(patches, grid, images.shape[-1]).clamp(0, 1)
        return {"reconstructions": uncovered(images, guessed, mask.view(len(images), *grid))}

    @torch.no_grad()
    def errors(self, images: Tensor) -> Tensor:
        """Return the mean squared error of what is drawn of each patch, [B, h, w]."""
        grid = self.network.grid
        targets = self.targets.of(cut(images, grid))

        def square(mask: Tensor) -> Tensor:
            return (self._predict(images, mask.expand(len(images), -1)) - targets).square().mean(2)

        masks = fixed_masks(grid, self.hidden).flatten(1).to(images.device)
        return averaged(masks, square).view(-1, *grid)

    def kept(self) -> dict[str, Tensor]:
        """Return mask token, decoder, the layers before and behind it, and its positions."""
        return besides(self, "network")

    def _predict(self, images: Tensor, mask: Tensor) -> Tensor:
        """Return the pixels of all patches, [B, L, 3 * P * P]."""
        visible = (~mask).nonzero()[:, 1].view(len(images), -1)
        seen = self.into(self.network.forward_visible(images, visible))
        tokens = self.mask_token.to(seen.dtype).expand(*mask.shape, -1)
        tokens = tokens.scatter(1, visible.unsqueeze(2).expand(-1, -1, seen.shape[2]), seen)
        drawn: Tensor = self.out(self.decoder(tokens + self.positions)).float()
        return drawn


def _deviation(patches: Tensor) -> Tensor:
    return (patches.var(2, keepdim=True) + _LEAST_VARIANCE).sqrt()
