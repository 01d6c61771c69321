"""What both tasks have in common: the pixels of hidden patches are predicted from the visible ones."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from ood_core.data.transforms import Compose, MultiView, random_crop, random_flip
from ood_core.interfaces import Batch, PatchNetwork, Task, Views
from ood_core.interfaces.building_blocks import COLUMNS, mean_over_masks, uncovered

Grid = tuple[int, int]

_FIXED = 8  # masks at least: a patch is guessed from several surroundings


def cut(images: Tensor, grid: Grid) -> Tensor:
    """Return the pixels of the patches, [B, L, 3 * P * P], row by row, of images [B, 3, S, S]."""
    count, channels, height, width = images.shape
    cells = images.reshape(count, channels, grid[0], height // grid[0], grid[1], width // grid[1])
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(count, grid[0] * grid[1], -1)


def join(patches: Tensor, grid: Grid, image_size: int) -> Tensor:
    """Return images [B, 3, S, S] of patches as `cut` makes them."""
    height, width = image_size // grid[0], image_size // grid[1]
    cells = patches.reshape(len(patches), *grid, 3, height, width)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(len(patches), 3, image_size, image_size)


def random_mask(count: int, cells: Grid, hidden: int) -> Tensor:
    """Return masks, bool [B, h, w] on the CPU, each with so many hidden cells."""
    order = torch.rand(count, cells[0] * cells[1]).argsort(1)
    mask = torch.zeros(count, cells[0] * cells[1], dtype=torch.bool)
    return mask.scatter_(1, order[:, :hidden], True).view(count, *cells)


def fixed_masks(cells: Grid, hidden: int) -> Tensor:
    """Return masks, bool [K, h, w] on the CPU, always the same ones, each with so many hidden cells.

    Shuffled cells are dealt out in hands of this size, the last hand of a shuffle filled up from its first; so each
    shuffle hides every cell once or twice.
    """
    count = cells[0] * cells[1]
    hands = math.ceil(count / hidden)
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(count, generator=generator) for _ in range(math.ceil(_FIXED / hands))]
    dealt = torch.cat([order[torch.arange(hands * hidden) % count].view(hands, hidden) for order in orders])
    mask = torch.zeros(len(dealt), count, dtype=torch.bool)
    return mask.scatter_(1, dealt, True).view(-1, *cells)


class PixelTask(Task):
    """Mean error of the predicted pixels of hidden patches. Patches are [B, L, 3 * P * P]."""

    network: PatchNetwork
    error: ClassVar[Callable[[Tensor], Tensor]]  # of a difference, element by element

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
