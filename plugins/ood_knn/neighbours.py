"""Distance to the k-th nearest training embedding, and nearest-neighbour guidance of the energy."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import torch
from annotated_types import Gt, Le
from torch import Tensor
from torch.nn.functional import normalize as unit

from ood_core.errors import OODError
from ood_core.interfaces import NonNegativeInt, Outputs, PositiveInt, Score, Scorer, ScorerInfo
from ood_core.neighbors import Index

_LOG = logging.getLogger(__name__)

Sample: TypeAlias = Annotated[float, Gt(0), Le(1)]
Kind: TypeAlias = Literal["flat", "ivf", "ivf-pq"]


def sample_outputs(train: Outputs, share: float, seed: int) -> Outputs:
    """Return a random share of the training outputs, at least one row, in their original order."""
    if not len(train):
        raise OODError("there is no training image to compare with")
    if share == 1:
        return train  # memory-mapped, as it is
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    return train[order[: math.ceil(share * len(train))].sort().values]


def limit_neighbours(k: int, most: int, scorer: str) -> int:
    """Return k, or the number of neighbours if that is smaller."""
    if k > most:
        _LOG.warning("%s: there are %d neighbours, k = %d is cut to that", scorer, most, k)
    return min(k, most)


@dataclass(frozen=True)
class NeighbourDistance(Score):
    """Euclidean distance to the k-th neighbour."""

    index: Index  # of metric "cosine" for embeddings of unit length, else "l2"
    k: int

    def __call__(self, outputs: Outputs) -> Tensor:
        values = self.index.search(outputs.embeddings, self.k)[0][:, -1]
        squares = 2 - 2 * values if self.index.metric == "cosine" else values
        return squares.clamp(min=0).sqrt()


@dataclass(frozen=True, kw_only=True)
class NearestNeighbour(Scorer):
    """Distance to the k-th nearest training embedding, both of unit length (Sun et al., 2022).

    A zero embedding is as far as one at a right angle. With k = 1 it ranks like the largest cosine to a training image.

    Attributes:
        k: Rank of the neighbour; in the authors' code 50 for CIFAR-10, 1000 for ImageNet.
        normalize: Scale embeddings to unit length first, as in the authors' code.
        sample: Share of training images to compare with, drawn at random; the authors use all of them.
        index: How to search: "flat" is exact; "ivf" and "ivf-pq" look at a part of the bank, and measure their recall.
        seed: Draws the sample and the training points of the index.
    """

    name = "knn"
    scores = NeighbourDistance
    info = ScorerInfo(
        paper="Sun et al., 2022, Out-of-distribution detection with deep nearest neighbors",
        formula="‖f/‖f‖ - g₍ₖ₎‖, g₍ₖ₎ the k-th nearest training embedding of length 1",
        fit="none; keeps N D",
        score="N D",
        notes="k is the authors' for CIFAR-10, who have 1000 for ImageNet; OpenOOD has 50, then the best of 50 to "
        "1000 on validation OOD images",
    )

    k: PositiveInt = 50
    normalize: bool = True
    sample: Sample = 1.0
    index: Kind = "flat"
    seed: NonNegativeInt = 0

    def fit(self, train: Outputs) -> NeighbourDistance:
        bank = sample_outputs(train, self.sample, self.seed)
        metric: Literal["cosine", "l2"] = "cosine" if self.normalize else "l2"
        index = Index.build(bank.embeddings, metric, self.index, seed=self.seed)
        return NeighbourDistance(index, limit_neighbours(self.k, len(index), self.name))


@dataclass(frozen=True)
class GuidedEnergy(Score):
    """Minus energy times guidance, the mean similarity to the nearest training embeddings."""

    index: Index  # of metric "inner"; embeddings of unit length times their energy
    k: int

    def __call__(self, outputs: Outputs) -> Tensor:
        guidance = self.index.search(unit(outputs.embeddings.double()), self.k)[0].mean(1)
        return -guidance * outputs.logits.double().logsumexp(1)


@dataclass(frozen=True, kw_only=True)
class GuidedByNeighbours(Scorer):
    """Energy times the similarity to the nearest training embeddings (NNGuide, Park et al., 2023).

    Attributes:
        k: Number of neighbours; 10 in the authors' code, 100 in OpenOOD.
        sample: Share of training images to compare with, drawn at random; the authors take 0.01 of ImageNet's.
        index: How to search: "flat" is exact; "ivf" and "ivf-pq" look at a part of the bank, and measure their recall.
        seed: Draws the sample and the training points of the index.
    """

    name = "nnguide"
    needs = frozenset({"embeddings", "logits"})
    scores = GuidedEnergy
    info = ScorerInfo(
        paper="Park, Jung and Teoh, 2023, Nearest neighbor guidance for out-of-distribution detection",
        formula="-E mean_i f/‖f‖·Eᵢ fᵢ/‖fᵢ‖ over the k largest, E = log Σ exp z",
        fit="N (C + D); keeps N D",
        score="N D + C",
        notes="k is the authors', who compare with 0.01 of ImageNet's training images, drawn at random; OpenOOD has "
        "100, and compares with the first 0.01 of the training images (here `k: 100, sample: 0.01` draws as many)",
    )

    k: PositiveInt = 10
    sample: Sample = 1.0
    index: Kind = "flat"
    seed: NonNegativeInt = 0

    def fit(self, train: Outputs) -> GuidedEnergy:
        bank = sample_outputs(train, self.sample, self.seed)
        points = torch.empty(bank.embeddings.shape)
        start = 0
        for chunk in bank.chunks():
            energy = chunk.logits.double().logsumexp(1, keepdim=True)
            points[start : start + len(chunk)] = unit(chunk.embeddings.double()) * energy
            start += len(chunk)
        index = Index.build(points, "inner", self.index, seed=self.seed)
        return GuidedEnergy(index, limit_neighbours(self.k, len(index), self.name))
