"""Points under a metric: their exact values in float64, and the coordinates in which faiss looks for them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ood_core.errors import OODError

Metric: TypeAlias = Literal["l2", "cosine", "inner"]

ROWS = 2**16  # points that are read, converted and given to faiss at a time
_CENTRE_ROWS = 4096
_PAIR_NUMBERS = 2**18  # two float64 blocks of them stay in the cache of a core


@dataclass(frozen=True)
class Points:
    """Vectors to search among."""

    vectors: Tensor
    """[K, D], at least one; may be memory-mapped."""
    metric: Metric
    """`l2` for squared distances, `cosine` and `inner` for similarities."""

    def __len__(self) -> int:
        return len(self.vectors)

    @cached_property
    def centre(self) -> Tensor:
        """The mean of up to 4096 points spread over all, float64 [D].

        |x|^2 - 2xy + |y|^2 cancels in float32 for data far from the origin. A translation changes no distance, and
        translating the points alone changes all inner products of a query by the same amount.
        """
        step = math.ceil(len(self) / _CENTRE_ROWS)
        centre = self.scale(self.vectors[::step]).mean(0)
        return centre if self.vectors.dtype == torch.float64 else centre.float().double()

    @cached_property
    def _norms(self) -> Tensor:
        """Norms of the vectors, float64 [K]; 1 for zero vectors."""
        return torch.cat([_norms(part.double()) for part in torch.split(self.vectors, _CENTRE_ROWS)])

    def scale(self, rows: Tensor) -> Tensor:
        """Return rows in float64, of norm 1 if the metric is the cosine."""
        return normalize(rows.double()) if self.metric == "cosine" else rows.double()

    def centred(self, rows: Tensor) -> Tensor:
        """Return scaled rows relative to the centre, float64."""
        return self.scale(rows) - self.centre

    def require_finite(self) -> None:
        """Raise OODError if a point is not finite."""
        if not all(part.isfinite().all() for part in torch.split(self.vectors, ROWS)):
            raise OODError("nearest neighbours: the points hold NaN or infinite values")

    def measure(self, queries: Tensor, indices: Tensor) -> Tensor:
        """Return the values of each query [N, D] with its points [N, M], float64 [N, M]; no pair depends on others."""
        step = max(1, _PAIR_NUMBERS // max(indices.shape[1] * queries.shape[1], 1))
        parts = []
        for some, places in zip(torch.split(self.scale(queries), step), torch.split(indices, step), strict=True):
            found, rows = self.vectors[places].double(), some[:, None]
            terms = found.sub_(rows).square_() if self.metric == "l2" else found.mul_(rows)
            parts.append(terms.sum(2))
        values = torch.cat(parts)
        return values / self._norms[indices] if self.metric == "cosine" else values

    def rank(self, queries: Tensor, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return values and indices of the best k of the candidates, int64 [N, M], by value in float64, then by index.

        Each row has at least k candidates; -1 stands for none.
        """
        indices = candidates.sort(dim=1).values
        values = self.measure(queries, indices.clamp(min=0))
        key = (values if self.metric == "l2" else -values).masked_fill(indices < 0, torch.inf)
        order = key.sort(dim=1, stable=True).indices[:, :k]
        return values.gather(1, order), indices.gather(1, order)


def normalize(rows: Tensor) -> Tensor:
    """Return float64 rows [N, D] of norm 1; zero stays zero."""
    return rows / _norms(rows)[:, None]


def _norms(rows: Tensor) -> Tensor:
    norms = rows.square().sum(1).sqrt()
    return torch.where(norms == 0, 1, norms)


def to_faiss(rows: Tensor) -> NDArray[np.float32]:
    """Return rows as faiss takes them."""
    return rows.float().contiguous().numpy()
