"""The tokenizer `kmeans`: a codebook of patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn.functional import fold

from ood_core.errors import OODError
from ood_core.interfaces import NonNegativeInt, PositiveInt, Tokenizer, TokenMap, TrainingData
from ood_core.neighbors import kmeans

_FLAT = 0.1  # of the global deviation: keeps noise in flat patches from looking like structure


class PatchDescriptor(torch.nn.Module):
    """Describes a patch by its pattern at unit contrast, and by its mean colour apart from that.

    The pattern alone would give a black, a grey and a white patch one token.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, grid: tuple[int, int], images: Tensor) -> None:
        super().__init__()
        self.grid = grid
        self.image_size = tuple(images.shape[2:])
        self.register_buffer("mean", images.mean())
        self.register_buffer("deviation", images.std().clamp_min(1e-6))

    def forward(self, images: Tensor) -> Tensor:
        """Return float32 [B, L, 3 * P * P + 3] of images [B, 3, S, S]."""
        patches = self.cut(images)
        colour = patches.mean(3, keepdim=True)
        centred = (patches - patches.mean((2, 3), keepdim=True)).flatten(2)
        contrast = centred.std(2, correction=0, keepdim=True)
        pattern = centred / (contrast + _FLAT * self.deviation)
        # times the root of P * P, a mean counts as much as the pixels it is the mean of
        offset = (colour - self.mean) / self.deviation * patches.shape[3] ** 0.5
        return torch.cat((pattern, offset.flatten(2)), 2)

    def cut(self, images: Tensor) -> Tensor:
        """Return patches [B, L, 3, P * P], row by row."""
        rows, columns = self.grid
        count, channels, height, width = images.shape
        cells = images.reshape(count, channels, rows, height // rows, columns, width // columns)
        return cells.permute(0, 2, 4, 1, 3, 5).reshape(count, rows * columns, channels, -1)

    def join(self, patches: Tensor) -> Tensor:
        """Return images [B, 3, S, S] of patches as they are cut."""
        sides = self.image_size[0] // self.grid[0], self.image_size[1] // self.grid[1]
        return fold(patches.flatten(2).transpose(1, 2), self.image_size, sides, stride=sides)


class NearestCentroid(TokenMap):
    """Gives every patch the number of its nearest centroid."""

    centroids: Tensor
    half_norms: Tensor
    examples: Tensor

    def __init__(self, describe: PatchDescriptor, centroids: Tensor) -> None:
        super().__init__()
        self.vocabulary = len(centroids)
        self.describe = describe
        self.register_buffer("centroids", centroids)
        self.register_buffer("half_norms", centroids.square().sum(1) / 2)
        pixels = centroids.shape[1] // 3 - 1  # of a patch; the rest is its colour
        self.register_buffer("examples", centroids.new_zeros(self.vocabulary, 3, pixels))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        # not under autocast, whose rounding would change tokens
        with torch.autocast(images.device.type, enabled=False):
            points = self.describe(images.to(self.centroids.dtype))
            # |x - c|^2 = |x|^2 - 2 (x c - |c|^2 / 2)
            nearness: Tensor = points @ self.centroids.T - self.half_norms
            return nearness.argmax(2)

    def decode(self, tokens: Tensor) -> Tensor:
        """Return images [B, 3, S, S] in [0, 1]: each patch is the mean of those of its token."""
        return self.describe.join(self.examples[tokens])

    def illustrate(self, images: Tensor) -> None:
        """Have each token decoded to the mean of the images' patches that have it; black where none has it."""
        patches = self.describe.cut(images).flatten(0, 1)
        tokens = torch.cat([self(part) for part in torch.split(images, 64)]).flatten()  # all at once would be large
        sums = patches.new_zeros(self.examples.shape).index_add_(0, tokens, patches)
        self.examples = sums / tokens.bincount(minlength=self.vocabulary).clamp_min(1)[:, None, None]


@dataclass(frozen=True, kw_only=True)
class KMeansTokenizer(Tokenizer):
    """Tokens are the nearest of k centroids of patches: no training, no download, the same every time.

    Attributes:
        vocabulary: k.
        samples: Patches that the centroids are made of.
        seed: Of k-means.
    """

    name = "kmeans"
    vocabulary: Annotated[int, Ge(2)] = 256
    samples: PositiveInt = 100_000
    seed: NonNegativeInt = 0

    def fit(self, data: TrainingData, grid: tuple[int, int]) -> NearestCentroid:
        patches = grid[0] * grid[1]
        images = data.sample(-(-self.samples // patches))
        describe = PatchDescriptor(grid, images)
        points = describe(images).flatten(0, 1)[: self.samples]
        if (different := len(points.unique(dim=0))) < self.vocabulary:
            raise OODError(
                f"tokenizer 'kmeans': a vocabulary of {self.vocabulary} needs as many different patches, "
                f"{len(points)} patches of the training data have {different}"
            )
        tokens = NearestCentroid(describe, kmeans(points, self.vocabulary, self.seed))
        tokens.illustrate(images)
        return tokens

    def build_empty(self, grid: tuple[int, int], image_size: int) -> NearestCentroid:
        images = torch.zeros(1, 3, image_size, image_size)
        describe = PatchDescriptor(grid, images)
        return NearestCentroid(describe, torch.zeros(self.vocabulary, describe(images).shape[2]))
