"""Local outlier factor (Breunig et al., 2000) of what was not fitted to, as scikit-learn has it with novelty=True.

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
from ood_knn.bank import Sample, cut, draw
from ood_knn.neighbours import Kind

_APART = 1e-10  # added to mean reachabilities, as scikit-learn does: copies of one image have a density all the same


@dataclass(frozen=True)
class OutlierFactor(Score):
    """Mean density of the neighbours over the own one; about 1 inside of a cluster.

    Attributes:
        index: The bank, of metric "l2".
        reaches: float64 [N], the distance of each of the bank to its k-th neighbour.
        densities: float64 [N].
        k: How many neighbours.
    """

    index: Index
    reaches: Tensor
    densities: Tensor
    k: int

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the score [N]."""
        squares, neighbours = self.index.search(outputs.embeddings, self.k)
        reachabilities = squares.sqrt().maximum(self.reaches[neighbours])
        return self.densities[neighbours].mean(1) * (reachabilities.mean(1) + _APART)


@dataclass(frozen=True, kw_only=True)
class LocalOutlierFactor(Scorer):
    """How much denser the neighbours lie than the embedding itself (local outlier factor, Breunig et al., 2000).

    mean_i d(f_i) / d(f) over the k nearest training embeddings f_i, where 1/d(f) = mean_i max(|f - f_i|, reach(f_i))
    and reach(f_i) is the distance of f_i to its k-th neighbour.

    Attributes:
        k: How many neighbours; 20 is scikit-learn's. The paper takes the largest factor over a range of k that begins
            at 10 to 20.
        sample: The share of training images to compare with, drawn at random: the fit takes N N D.
        index: How to search: "flat" is exact; "ivf" and "ivf-pq" look at a part of the bank, and measure their recall.
        seed: Draws the sample, and what the index is learned from.
    """

    name = "lof"
    needs = frozenset({"embeddings"})
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
        """Return the score.

        Raises:
            OODError: There are fewer than two training images, or embeddings are unusable.
        """
        bank = draw(train, self.sample, self.seed)
        if len(bank) < 2:
            raise OODError(f"scorer '{self.name}' needs at least two training images to compare with, there is one")
        index = Index.build(bank.embeddings, "l2", self.index, seed=self.seed)
        k = cut(self.k, len(index) - 1, self.name)
        squares, neighbours = _others(index, bank, k)
        distances = squares.sqrt_()
        reaches = distances[:, -1].clone()
        means = torch.empty(len(bank), dtype=torch.float64)
        for start in range(0, len(bank), 8192):
            rows = slice(start, start + 8192)
            means[rows] = distances[rows].maximum(reaches[neighbours[rows]]).mean(1)
        return OutlierFactor(index, reaches, 1 / (means + _APART), k)


def _others(index: Index, bank: Outputs, k: int) -> tuple[Tensor, Tensor]:
    """Return squared distances and indices, [N, k], of the nearest ones but itself to each of the bank."""
    squares = torch.empty(len(bank), k, dtype=torch.float64)
    neighbours = torch.empty(len(bank), k, dtype=torch.int64)
    start = 0
    for part in bank.chunks():
        rows = slice(start, start + len(part))
        values, found = index.search(part.embeddings, k + 1)
        itself = found == torch.arange(start, start + len(part))[:, None]
        itself[:, -1] |= ~itself.any(1)  # among more than k copies of it: one of them is left out instead
        squares[rows], neighbours[rows] = (all_[~itself].view(-1, k) for all_ in (values, found))
        start += len(part)
    return squares, neighbours
