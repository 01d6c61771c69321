"""The pretext task `mim`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Gt, Le, Lt
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from ood_core.data.selection import evaluation_view
from ood_core.data.transforms import Compose, MultiView, Transform, random_color_jitter, random_crop, random_flip
from ood_core.errors import OODError
from ood_core.interfaces import Network, PatchNetwork, TrainingData, Views
from ood_core.interfaces.building_blocks import COLUMNS, UNCOVERED_ROWS, mean_over_masks, uncovered
from ood_core.interfaces.plugin import NonNegativeFloat, PositiveInt
from ood_core.interfaces.training import Batch, PretextTask, Task, Tokenizer, TokenMap, require_patches
from ood_core.runtime import distributed
from ood_core.runtime.torchvision_compat import prepare_torchvision
from ood_mim.mask import BlockMasks, ExactBlockMasks, fixed_masks
from ood_mim.tokenizer import KMeansTokenizer

_ASPECT = [3 / 4, 4 / 3]  # width : height, as in every random crop since Inception's


@dataclass(frozen=True)
class TwoSizeCrop:
    """Shows network and tokenizer the same part of an image, each at its size."""

    change: Transform  # what happens to the image before
    smallest: float  # smallest share of the area that the crop keeps; 1 makes two evaluation views
    sizes: tuple[int, int]  # in pixels; the network's by bicubic interpolation, the tokenizer's by Lanczos's

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return two views, uint8 [3, S, S] and [3, V, V], of an image [3, H, W]."""
        changed = self.change(image)
        network, tokenizer = self.sizes
        if self.smallest == 1:
            return evaluation_view(changed, network), evaluation_view(changed, tokenizer)
        prepare_torchvision()
        from torchvision.transforms import InterpolationMode, v2  # slow

        top, left, height, width = v2.RandomResizedCrop.get_params(changed, [self.smallest, 1], _ASPECT)
        crop = changed[:, top : top + height, left : left + width]
        smooth = v2.functional.resize(crop, [network, network], InterpolationMode.BICUBIC, antialias=True)
        # by Pillow: older torchvision filters no tensors in this way
        picture = Image.fromarray(crop.permute(1, 2, 0).numpy())
        sharp = np.array(picture.resize((tokenizer, tokenizer), Image.Resampling.LANCZOS))
        return smooth, torch.from_numpy(sharp).permute(2, 0, 1)


class MaskedImageModellingTask(Task):
    """Cross-entropy between the predicted and the true tokens of hidden patches."""

    def __init__(
        self, network: PatchNetwork, tokens: TokenMap, view_size: int, masks: BlockMasks | ExactBlockMasks
    ) -> None:
        super().__init__()
        self.network, self.tokens, self.view_size, self.masks = network, tokens, view_size, masks
        width = network.num_features
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(width), std=0.02))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, tokens.vocabulary))

    def draw(self, images: int) -> Tensor:
        return self.masks.draw(images)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the mean loss over all hidden patches of the batch, and the share of tokens guessed right."""
        images, shown = batch.views[0], batch.views[-1]
        mask = (self.draw(len(images)) if batch.drawn is None else batch.drawn).to(images.device)
        logits = self.head(self.network.forward_masked(images, mask, self.mask_token)[mask])
        targets = self.tokens(shown)[mask]
        # of a process, so that the mean over processes is one over patches; no block may have fitted anywhere
        count = (distributed.all_reduce_sum(mask.sum()) / distributed.world_size()).clamp_min(1)
        right = (logits.argmax(1) == targets).sum()
        return {"loss": cross_entropy(logits, targets, reduction="sum") / count, "masked_accuracy": right / count}

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """Return images with what the predicted tokens of hidden patches stand for, if the tokenizer can decode."""
        images, shown = batch.views[0][:COLUMNS], batch.views[-1][:COLUMNS]
        mask = self.draw(len(images)).to(images.device)
        guesses = self.head(self.network.forward_masked(images, mask, self.mask_token)).argmax(2)
        decoded = self.tokens.decode(torch.where(mask, guesses, self.tokens(shown)))
        if decoded is None:
            return {}
        return {"reconstructions": uncovered(images, decoded, mask.view(len(images), *self.network.grid))}

    @torch.no_grad()
    def patch_errors(self, images: Tensor) -> Tensor:
        """Return the cross-entropy between the predicted and the true token of each patch, [B, h, w]."""
        shown = images
        if images.shape[-1] != self.view_size:
            shown = interpolate(images, [self.view_size] * 2, mode="bicubic", antialias=True).clamp(0, 1)
        targets = self.tokens(shown)

        def errors(mask: Tensor) -> Tensor:
            hidden = self.network.forward_masked(images, mask.expand(len(images), -1), self.mask_token)
            return cross_entropy(self.head(hidden).transpose(1, 2), targets, reduction="none")

        return mean_over_masks(fixed_masks(self.masks).to(images.device), errors).view(-1, *self.network.grid)


@dataclass(frozen=True, kw_only=True)
class MaskedImageModelling(PretextTask):
    """Predict the visual tokens of hidden patches from the visible ones (BEiT, Bao et al., 2022).

    Network and tokenizer see the same crop of an image, each at its size. Where the sizes are equal, as with `kmeans`,
    one view serves both: BEiT's two differ in size and normalisation alone.

    Attributes:
        tokenizer: Makes the tokens.
        masks: "blockwise" as in the paper may hide a few patches less than it may; "blockwise-exact" as in BEiT v2
            (Peng et al., 2022) then hides single ones, so that it is the same number in all images.
        mask_ratio: Most of the patches to hide; 0.4 in the paper.
        min_block: Smallest block of hidden patches; 16 in the paper, of 196. 4 suits a grid of 8 x 8, 1 one of 4 x 4.
        crop_scale: Smallest share of an image's area that a random crop keeps; 0.08 in the paper, 1 crops nothing.
        flip: Whether half of the images are mirrored.
        color_jitter: Strength for brightness, contrast and saturation; 0.4 in the paper, 0 changes no colour.
    """

    name = "mim"
    tokenizer: Tokenizer = field(default_factory=KMeansTokenizer)
    masks: Literal["blockwise", "blockwise-exact"] = "blockwise"
    mask_ratio: Annotated[float, Gt(0), Lt(1)] = 0.4
    min_block: PositiveInt = 16
    crop_scale: Annotated[float, Gt(0), Le(1)] = 0.08
    flip: bool = True
    color_jitter: NonNegativeFloat = 0.4

    picture_legends: ClassVar[dict[str, str]] = {
        "reconstructions": UNCOVERED_ROWS.format("the tokenizer's pixels for the predicted tokens")
    }

    def views(self, image_size: int, grid: tuple[int, int] | None) -> Views:
        """Return the augmentation: one view, or a second one for a tokenizer that wants another size."""
        changes: list[Transform] = [random_color_jitter(self.color_jitter)] if self.color_jitter else []
        changes += [random_flip] if self.flip else []
        size = image_size if grid is None else self.tokenizer.view_size(image_size, grid)
        if size != image_size:
            return TwoSizeCrop(Compose(tuple(changes)), self.crop_scale, (image_size, size))
        return MultiView((Compose((*changes, random_crop(image_size, self.crop_scale))),))

    def build(self, network: Network, data: TrainingData) -> MaskedImageModellingTask:
        patched = require_patches(network, self)
        masks = self._masks(patched.grid)
        patched.tie_position_biases()
        return self._task(patched, masks, self.tokenizer.fit(data, patched.grid), data.image_size)

    def build_empty(self, network: Network, image_size: int) -> MaskedImageModellingTask | None:
        patched = require_patches(network, self)
        tokens = self.tokenizer.build_empty(patched.grid, image_size)
        return None if tokens is None else self._task(patched, self._masks(patched.grid), tokens, image_size)

    def _task(
        self, network: PatchNetwork, masks: BlockMasks | ExactBlockMasks, tokens: TokenMap, image_size: int
    ) -> MaskedImageModellingTask:
        return MaskedImageModellingTask(network, tokens, self.tokenizer.view_size(image_size, network.grid), masks)

    def _masks(self, grid: tuple[int, int]) -> BlockMasks | ExactBlockMasks:
        rows, columns = grid
        budget = int(self.mask_ratio * rows * columns)
        largest = min(budget, (rows - 1) * (columns - 1))  # a block never spans the whole image
        if self.min_block > largest:
            raise OODError(
                f"pretext 'mim': min_block must be at most {largest} with mask_ratio {self.mask_ratio} "
                f"of {rows} x {columns} patches, it is {self.min_block}"
            )
        blocks = BlockMasks(grid, budget, self.min_block)
        return ExactBlockMasks(blocks) if self.masks == "blockwise-exact" else blocks
