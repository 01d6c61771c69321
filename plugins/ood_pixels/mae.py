"""The pretext task `mae` (He et al., 2022): the encoder sees a quarter of the patches, a decoder draws the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt, Le, Lt
from torch import Tensor, nn

from ood_core.errors import OODError
from ood_core.interfaces import Network, PatchNetwork, PositiveInt, PretextTask, TrainingData, Views, require_patches
from ood_core.interfaces.building_blocks import UNCOVERED_ROWS, sines_and_cosines
from ood_pixels.task import PixelTask, crop_and_flip, fixed_masks, random_mask

_LEAST_VARIANCE = 1e-6


class MaskedAutoencoderTask(PixelTask):
    """Mean squared error of hidden patches, each normalised by its own mean and deviation if that is an option."""

    error = torch.square
    positions: Tensor

    def __init__(self, network: PatchNetwork, options: MaskedAutoencoder, pixels: int, hidden: int) -> None:
        super().__init__()
        self.network, self.hidden, self.normalize = network, hidden, options.normalize_targets
        width = options.decoder_width
        self.into = nn.Linear(network.num_features, width)
        self.mask_token = nn.Parameter(nn.init.normal_(torch.empty(width), std=0.02))
        self.decoder = decoder(width, options.decoder_depth, options.decoder_heads)
        self.out = nn.Linear(width, pixels)
        self.register_buffer("positions", sines_and_cosines(network.grid, width))

    def draw(self, images: int) -> Tensor:
        return random_mask(images, self.network.grid, self.hidden).flatten(1)

    def fixed_masks(self) -> Tensor:
        return fixed_masks(self.network.grid, self.hidden).flatten(1)

    def targets(self, patches: Tensor) -> Tensor:
        """Return patches, at mean 0 and variance 1 if so wanted."""
        return (patches - patches.mean(2, keepdim=True)) / _deviation(patches) if self.normalize else patches

    def pixels(self, predicted: Tensor, patches: Tensor) -> Tensor:
        """Return predictions at the true brightness and contrast of each patch."""
        return predicted * _deviation(patches) + patches.mean(2, keepdim=True) if self.normalize else predicted

    def predict(self, images: Tensor, mask: Tensor) -> Tensor:
        visible = (~mask).nonzero()[:, 1].view(len(images), -1)
        seen = self.into(self.network.forward_visible(images, visible))
        tokens = self.mask_token.to(seen.dtype).expand(*mask.shape, -1)
        tokens = tokens.scatter(1, visible.unsqueeze(2).expand(-1, -1, seen.shape[2]), seen)
        drawn: Tensor = self.out(self.decoder(tokens + self.positions)).float()
        return drawn


def decoder(width: int, depth: int, heads: int) -> nn.Sequential:
    """Return transformer blocks with the normalisation before attention and MLP, and one behind them all."""
    # torch's own stack would begin with copies of one block
    blocks = [
        nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        for _ in range(depth)
    ]
    return nn.Sequential(*blocks, nn.LayerNorm(width))


def _deviation(patches: Tensor) -> Tensor:
    return (patches.var(2, keepdim=True) + _LEAST_VARIANCE).sqrt()


@dataclass(frozen=True, kw_only=True)
class MaskedAutoencoder(PretextTask):
    """Draw the hidden patches of an image of which the encoder sees only the others (MAE, He et al., 2022).

    Attributes:
        mask_ratio: Share of the patches to hide; 0.75 in the paper.
        decoder_width: Of the decoder's tokens; 512 in the paper.
        decoder_depth: Blocks of the decoder; 8 in the paper.
        decoder_heads: Heads of its attention; 16 in the paper.
        normalize_targets: Whether each patch is drawn at mean 0 and variance 1, as in the paper's best models.
        crop_scale: Smallest share of an image's area that a random crop keeps; 0.2 in the paper.
        flip: Whether half of the images are mirrored.
    """

    name = "mae"
    mask_ratio: Annotated[float, Gt(0), Lt(1)] = 0.75
    decoder_width: PositiveInt = 512
    decoder_depth: PositiveInt = 8
    decoder_heads: PositiveInt = 16
    normalize_targets: bool = True
    crop_scale: Annotated[float, Gt(0), Le(1)] = 0.2
    flip: bool = True

    picture_legends: ClassVar[dict[str, str]] = {
        "reconstructions": UNCOVERED_ROWS.format(
            "the predicted pixels (with normalize_targets at the true mean and variance of each patch)"
        )
    }

    def check(self) -> None:
        if self.decoder_width % self.decoder_heads or self.decoder_width % 4:
            raise OODError(
                f"pretext 'mae': decoder_width must be a multiple of decoder_heads {self.decoder_heads} and of 4, "
                f"it is {self.decoder_width}"
            )

    def views(self, image_size: int, grid: tuple[int, int] | None) -> Views:
        return crop_and_flip(image_size, self.crop_scale, self.flip)

    def build(self, network: Network, data: TrainingData) -> MaskedAutoencoderTask:
        """Return the task, the network's positions fixed."""
        require_patches(network, self).fix_positions()
        return self.build_empty(network, data.image_size)

    def build_empty(self, network: Network, image_size: int) -> MaskedAutoencoderTask:
        patched = require_patches(network, self)
        patches = patched.grid[0] * patched.grid[1]
        hidden = patches - int(patches * (1 - self.mask_ratio))
        if not 0 < hidden < patches:
            raise OODError(f"pretext 'mae': with mask_ratio {self.mask_ratio} {hidden} of {patches} patches are hidden")
        return MaskedAutoencoderTask(patched, self, 3 * (image_size // patched.grid[0]) ** 2, hidden)
