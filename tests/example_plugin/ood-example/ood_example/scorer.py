"""Cosine to the nearest class mean."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ood_core.interfaces import Outputs, Score, Scorer


@dataclass(frozen=True)
class CosineToMeans(Score):
    """One minus the largest cosine between an embedding and a mean; in [0, 2].

    Attributes:
        means: float64 [C, D], of length 1.
    """

    means: Tensor

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return float64 [N]."""
        return torch.cat([1 - self._cosines(chunk).amax(dim=1) for chunk in outputs.chunks()])

    def _cosines(self, outputs: Outputs) -> Tensor:
        return normalize(outputs.embeddings.double(), dim=1) @ self.means.T


@dataclass(frozen=True, kw_only=True)
class ClassMeanCosine(Scorer):
    """Angle to the nearest class: cosine between an embedding and the mean direction of every class."""

    name = "class-mean-cosine"
    needs = frozenset({"embeddings", "labels"})
    scores = CosineToMeans

    def fit(self, train: Outputs) -> CosineToMeans:
        """Return the cosine to the class means of the normalised training embeddings; empty classes have none."""
        sums = torch.zeros(train.classes, train.embeddings.shape[1], dtype=torch.float64)
        for chunk in train.chunks():
            sums.index_add_(0, chunk.labels, normalize(chunk.embeddings.double(), dim=1))
        present = torch.bincount(train.labels, minlength=train.classes) > 0
        return CosineToMeans(normalize(sums[present], dim=1))
