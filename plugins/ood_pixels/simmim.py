"""SimMIM (Xie et al., 2022): the encoder sees mask tokens, one linear layer predicts the pixels, the loss is L1."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ood_core.interfaces import Batch, PatchNetwork, Task
from ood_core.interfaces.building_blocks.image_grid import COLUMNS, uncovered
from ood_core.interfaces.building_blocks.masked_errors import averaged, besides
from ood_pixels.patches import Grid, cut, fixed_masks, join, random_mask


class SimMIMTask(Task):
    """Mean distance between predicted and true pixels of hidden patches, both scaled to [-1, 1]."""

    def __init__(self, network: PatchNetwork, units: Grid, ratio: float, pixels: int) -> None:
        super().__init__()
        self.network = network
        self.units = units
        self.hidden = math.ceil(ratio * units[0] * units[1])
        width = network.num_features
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(width), std=0.02))
        self.head = nn.Linear(width, pixels)

    def draw(self, images: int) -> Tensor:
        """Return masks over patches, bool [B, L]."""
        return self._patchwise(random_mask(images, self.units, self.hidden))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the mean over the hidden pixels of the batch."""
        (images,) = batch.views
        mask = (self.draw(len(images)) if batch.drawn is None else batch.drawn).to(images.device)
        targets = cut(2 * images - 1, self.network.grid)
        return {"loss": (self._predict(images, mask)[mask] - targets[mask]).abs().mean()}

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """Return images with the predicted pixels of hidden patches."""
        images = batch.views[0][:COLUMNS]
        mask, grid = self.draw(len(images)).to(images.device), self.network.grid
        guessed = join(self._predict(images, mask) / 2 + 0.5, grid, images.shape[-1]).clamp(0, 1)
        return {"reconstructions": uncovered(images, guessed, mask.view(len(images), *grid))}

    @torch.no_grad()
    def errors(self, images: Tensor) -> Tensor:
        """Return the mean distance between predicted and true pixels of each patch, [B, h, w]."""
        targets = cut(2 * images - 1, self.network.grid)

        def distance(mask: Tensor) -> Tensor:
            return (self._predict(images, mask.expand(len(images), -1)) - targets).abs().mean(2)

        masks = self._patchwise(fixed_masks(self.units, self.hidden)).to(images.device)
        return averaged(masks, distance).view(-1, *self.network.grid)

    def kept(self) -> dict[str, Tensor]:
        """Return mask token and head."""
        return besides(self, "network")

    def _predict(self, images: Tensor, mask: Tensor) -> Tensor:
        predicted: Tensor = self.head(self.network.forward_masked(images, mask, self.mask_token)).float()
        return predicted

    def _patchwise(self, mask: Tensor) -> Tensor:
        """Return masks over patches, bool [B, L], of those over units; a hidden unit hides all patches within it."""
        for axis, (patches, units) in enumerate(zip(self.network.grid, self.units, strict=True), 1):
            mask = mask.repeat_interleave(patches // units, axis)
        return mask.flatten(1)
