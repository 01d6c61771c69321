"""Local outlier factor (Breunig et al., 2000) of new images, as in scikit-learn with novelty=True.

The reachability distance from f to a training embedding is their distance, but at least the distance of the training
embedding to its own k-th neighbour. The local density is one over the mean reachability of the k nearest ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ood_core.errors import OODError
from ood_core.interfaces import NonNegativeInt, Outputs, PositiveInt, Score, Scorer, ScorerInfo
from ood_core.neighbors import Index
from ood_knn.neighbours import Kind, Sample, limit_neighbours, sample_outputs

_CHUNK_ROWS = 8192
_EPSILON = 1e-10  # added to mean reachabilities, as in scikit-learn: copies of one image have a finite density


@dataclass(frozen=True)
class OutlierFactor(Score):
    """Mean local density of the neighbours over that of the embedding; about 1 inside of a cluster."""

    index: Index  # of metric "l2"
    reaches: Tensor  # float64 [N], distance of each training embedding to its k-th neighbour
    densities: Tensor  # float64 [N]
    k: int

    def __call__(self, outputs: Outputs) -> Tensor:
        squares, neighbours = self.index.search(outputs.embeddings, self.k)
        reachabilities = squares.sqrt().maximum(self.reaches[neighbours])
        return self.densities[neighbours].mean(1) * (reachabilities.mean(1) + _EPSILON)


@dataclass(frozen=True, kw_only=True)
class LocalOutlierFactor(Scorer):
    """How much denser the neighbours lie than the embedding itself (local outlier factor, Breunig et al., 2000).

    Attributes:
        k: Number of neighbours; 20 in scikit-learn.
        sample: Share of training images to compare with, drawn at random: the fit takes N N D.
        index: How to search: "flat" is exact; "ivf" and "ivf-pq" look at a part of the bank, and measure their recall.
        seed: Draws the sample and the training points of the index.
    """

    name = "lof"
    scores = OutlierFactor
    info = ScorerInfo(
        paper="Breunig et al., 2000, LOF: Identifying density-based local outliers",
        formula="mean_i d(fᵢ) / d(f), 1/d(f) = mean_i max(‖f - fᵢ‖, reach(fᵢ)) over the k nearest",
        fit="N² D",
        score="N D",
        notes="k is scikit-learn's; the paper takes the largest factor over a range of k that begins at 10 to 20",
    )

    k: PositiveInt = 20
    sample: Sample = 1.0
    index: Kind = "flat"
    seed: NonNegativeInt = 0

    def fit(self, train: Outputs) -> OutlierFactor:
        bank = sample_outputs(train, self.sample, self.seed)
        if len(bank) < 2:
            raise OODError(f"scorer '{self.name}' needs at least two training images to compare with, there is one")
        index = Index.build(bank.embeddings, "l2", self.index, seed=self.seed)
        k = limit_neighbours(self.k, len(index) - 1, self.name)
        squares, neighbours = [], []
        for rows in torch.split(torch.arange(len(bank)), _CHUNK_ROWS):
            values, found = index.search(bank.embeddings[rows], k + 1)
            itself = found == rows[:, None]
            itself[:, -1] |= ~itself.any(1)  # more than k copies of the embedding: exclude any of them
            squares.append(values[~itself].view(-1, k))
            neighbours.append(found[~itself].view(-1, k))
        distances = torch.cat(squares).sqrt_()
        reaches = distances[:, -1].clone()
        reachabilities = distances.maximum(reaches[torch.cat(neighbours)])
        return OutlierFactor(index, reaches, 1 / (reachabilities.mean(1) + _EPSILON), k)
