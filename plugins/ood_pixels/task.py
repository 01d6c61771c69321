"""What both tasks have in common: the pixels of hidden patches are predicted from the visible ones."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from ood_core.data.transforms import Compose, MultiView, random_crop, random_flip
from ood_core.interfaces import Batch, PatchNetwork, Task, Views
from ood_core.interfaces.building_blocks import COLUMNS, mean_over_masks, uncovered
from ood_pixels.patches import cut, join


class PixelTask(Task):
    """Mean error of the predicted pixels of hidden patches. Patches are [B, L, 3 * P * P]."""

    network: PatchNetwork
    error: ClassVar[Callable[[Tensor], Tensor]]
    """Of a difference, element by element."""

    @abstractmethod
    def draw(self, images: int) -> Tensor:
        """Return masks over patches, bool [B, L]."""

    @abstractmethod
    def fixed_masks(self) -> Tensor:
        """Return masks over patches, bool [K, L], for `patch_errors`."""

    @abstractmethod
    def targets(self, patches: Tensor) -> Tensor:
        """Return what is predicted of patches."""

    @abstractmethod
    def pixels(self, predicted: Tensor, patches: Tensor) -> Tensor:
        """Return the inverse of `targets` for predictions of these patches."""

    @abstractmethod
    def predict(self, images: Tensor, mask: Tensor) -> Tensor:
        """Return predictions for all patches."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        (images,) = batch.views
        mask = (self.draw(len(images)) if batch.drawn is None else batch.drawn).to(images.device)
        targets = self.targets(cut(images, self.network.grid))
        return {"loss": type(self).error(self.predict(images, mask)[mask] - targets[mask]).mean()}

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        images = batch.views[0][:COLUMNS]
        mask, grid = self.draw(len(images)).to(images.device), self.network.grid
        pixels = self.pixels(self.predict(images, mask), cut(images, grid))
        predicted = join(pixels, grid, images.shape[-1]).clamp(0, 1)
        return {"reconstructions": uncovered(images, predicted, mask.view(len(images), *grid))}

    @torch.no_grad()
    def patch_errors(self, images: Tensor) -> Tensor:
        targets = self.targets(cut(images, self.network.grid))

        def errors(mask: Tensor) -> Tensor:
            return type(self).error(self.predict(images, mask.expand(len(images), -1)) - targets).mean(2)

        return mean_over_masks(self.fixed_masks().to(images.device), errors).view(-1, *self.network.grid)


def crop_and_flip(image_size: int, crop_scale: float, flip: bool) -> Views:
    """Return an augmentation of one view."""
    return MultiView((Compose((random_crop(image_size, crop_scale), *([random_flip] if flip else []))),))
