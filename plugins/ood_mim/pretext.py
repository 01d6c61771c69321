"""The pretext task `mim`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import torch
from annotated_types import Gt, Le, Lt
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ood_core.data import random_crop
from ood_core.errors import OODError
from ood_core.interfaces import (
    Batch,
    Network,
    NonNegativeFloat,
    PatchNetwork,
    PositiveInt,
    PretextTask,
    Task,
    Tokenizer,
    TokenMap,
    TrainingData,
    Views,
)
from ood_mim.augmentation import Augmentation, flipped, jittered
from ood_mim.mask import BlockMasks
from ood_mim.tokenizer import KMeansTokenizer


class MaskedImageModellingTask(Task):
    """Cross-entropy between the predicted and the true tokens of hidden patches."""

    def __init__(self, network: PatchNetwork, tokens: TokenMap, masks: BlockMasks) -> None:
        super().__init__()
        self.network = network
        self.tokens = tokens
        self.masks = masks
        width = network.num_features
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(width), std=0.02))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, tokens.vocabulary))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the mean loss over all hidden patches of the batch, and the share of tokens guessed right."""
        (images,) = batch.views
        mask = self.masks.draw(len(images)).to(images.device)
        encoded = self.network.forward_masked(images, mask, self.mask_token)
        logits = self.head(encoded[mask])
        targets = self.tokens(images)[mask]
        count = max(len(targets), 1)  # no block may have fitted into a single one of the images
        right = (logits.argmax(1) == targets).sum()
        return {"loss": cross_entropy(logits, targets, reduction="sum") / count, "masked_accuracy": right / count}


@dataclass(frozen=True, kw_only=True)
class MaskedImageModelling(PretextTask):
    """Predict the visual tokens of hidden patches from the visible ones (BEiT, Bao et al., 2022).

    Network and tokenizer are given one and the same view: BEiT's two differ only in size and normalisation, and here
    both take images in [0, 1] of one size.

    Attributes:
        tokenizer: Makes the tokens.
        mask_ratio: Most of the patches to hide; 0.4 in the paper.
        min_block: Smallest block of hidden patches; 16 in the paper, of 196. 4 suits a grid of 8 x 8, 1 one of 4 x 4.
        crop_scale: Smallest share of an image's area that a random crop keeps; 0.08 in the paper, 1 crops nothing.
        flip: Whether half of the images are mirrored.
        color_jitter: Strength for brightness, contrast and saturation; 0.4 in the paper, 0 changes no colour.
    """

    name = "mim"

    tokenizer: Tokenizer = field(default_factory=KMeansTokenizer)
    mask_ratio: Annotated[float, Gt(0), Lt(1)] = 0.4
    min_block: PositiveInt = 16
    crop_scale: Annotated[float, Gt(0), Le(1)] = 0.08
    flip: bool = True
    color_jitter: NonNegativeFloat = 0.4

    def views(self, image_size: int) -> Views:
        """Return the augmentation, one view."""
        steps = [random_crop(image_size, self.crop_scale)]
        if self.flip:
            steps.append(flipped)
        if self.color_jitter:
            steps.append(jittered(self.color_jitter))  # last, unlike BEiT: there are fewer pixels after the crop
        return Augmentation(tuple(steps))

    def build(self, network: Network, data: TrainingData) -> MaskedImageModellingTask:
        """Return the task, its tokenizer fitted to the training data.

        Raises:
            OODError: The network has no patches, or too few to hide a block of them.
        """
        if not isinstance(network, PatchNetwork):
            raise OODError("pretext 'mim' needs a backbone that works on patches: ViT, BEiT, MLP-Mixer or a hybrid")
        masks = self._masks(network.grid)
        return MaskedImageModellingTask(network, self.tokenizer.fit(data, network.grid), masks)

    def _masks(self, grid: tuple[int, int]) -> BlockMasks:
        rows, columns = grid
        budget = int(self.mask_ratio * rows * columns)
        largest = min(budget, (rows - 1) * (columns - 1))  # a block never spans the whole image
        if self.min_block > largest:
            raise OODError(
                f"pretext 'mim': min_block must be at most {largest} with mask_ratio {self.mask_ratio} "
                f"of {rows} x {columns} patches, it is {self.min_block}"
            )
        return BlockMasks(grid, budget, self.min_block)
