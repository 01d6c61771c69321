"""The k nearest of all points: candidates from faiss in float32, their order from float64.

faiss returns a few more than k candidates. If the last of them lies farther behind the k-th than float32 can be wrong,
no other point belongs to the k nearest, and the result is that of float64. For the few queries where it does not -
copies of a point, clusters far apart and very narrow - float64 products find the candidates.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ood_core.neighbors.faiss_backend import GPU_NEIGHBOURS, Place, faiss, search_index, to_device
from ood_core.neighbors.vectors import ROWS, Points, to_faiss

_QUERIES = 8192
_QUERIES_FLOAT64 = 1024
_POINTS_FLOAT64 = 8192
_ULP = 2.0**-24
_UNDERFLOW = 1e-30


@dataclass(frozen=True)
class Shard:
    """Some of the points as a flat index of faiss."""

    first: int  # index of its first point among all points
    index: Any
    radius: float  # largest distance of a point to the centre


def make_shards(points: Points, place: Place) -> Iterator[Shard]:
    """Yield the points shard by shard, so that no more than one of them needs to be in memory."""
    metric = faiss().METRIC_L2 if points.metric == "l2" else faiss().METRIC_INNER_PRODUCT
    for first in range(0, len(points), ROWS):
        rows = points.centred(points.vectors[first : first + ROWS])
        index = faiss().IndexFlat(rows.shape[1], metric)
        index.add(to_faiss(rows))
        yield Shard(first, to_device(index, place), rows.norm(dim=1).max().item())


def search(
    points: Points, queries: Tensor, k: int, place: Place, shards: Iterable[Shard] = ()
) -> tuple[Tensor, Tensor]:
    """Return values, float64 [N, k], and indices, int64 [N, k], nearest first; of equal ones the lower index.

    Points are finite, and at least k; a row of the queries [N, D] that is not finite gets values that are not finite.
    `shards` of all points are made for this search by default.
    """
    count = min(k + k // 2 + 3, len(points))
    values = torch.empty(len(queries), k, dtype=torch.float64)
    indices = torch.empty(len(queries), k, dtype=torch.int64)
    for rows in torch.split(torch.arange(len(queries)), _QUERIES):
        finite = torch.where(queries[rows].isfinite().all(1, keepdim=True), queries[rows], 0)
        if count == len(points):
            candidates = torch.arange(count).expand(len(rows), -1)
        elif place == "gpu" and count > GPU_NEIGHBOURS:
            candidates = _find_in_float64(points, finite, count)
        else:
            candidates, certain = _find(points, finite, k, count, shards or make_shards(points, place))
            if not certain.all():
                candidates[~certain] = _find_in_float64(points, finite[~certain], count)
        values[rows], indices[rows] = points.rank(queries[rows], candidates, k)
    return values, indices


def _find(points: Points, queries: Tensor, k: int, count: int, shards: Iterable[Shard]) -> tuple[Tensor, Tensor]:
    """Return candidates, int64 [N, count], and whether they surely hold the k nearest, bool [N]."""
    l2 = points.metric == "l2"
    left = points.centred(queries) if l2 else points.scale(queries)
    radius, values, indices = 0.0, torch.empty(len(left), 0), torch.empty(len(left), 0, dtype=torch.int64)
    for shard in shards:
        found = search_index(shard.index, to_faiss(left), min(count, shard.index.ntotal))
        values = torch.cat([values, found[0]], 1)
        indices = torch.cat([indices, torch.where(found[1] < 0, -1, found[1] + shard.first)], 1)
        values, order = values.topk(min(count, values.shape[1]), largest=not l2)
        indices, radius = indices.gather(1, order), max(radius, shard.radius)
    # A sum of D products is off by at most D ulp of the product of the norms, and by over 8 sqrt(D) ulp with a
    # probability below 2 D exp(-32) (Higham and Mary, 2019, theorem 2.4); 8 more are for what was rounded before
    norms, dimension = left.norm(dim=1), left.shape[1]
    sizes = (norms + radius).square() if l2 else norms * radius
    error = (min(dimension, 8 * dimension**0.5) + 8) * _ULP * sizes + _UNDERFLOW
    certain = (values[:, -1] - values[:, k - 1]).abs().double() > 2 * error  # False for NaN
    return indices, certain & (indices >= 0).all(1)


def _find_in_float64(points: Points, queries: Tensor, count: int) -> Tensor:
    """Return the candidates, int64 [N, count], that products in float64 find."""
    parts = []
    for some in torch.split(queries, _QUERIES_FLOAT64):
        left = points.centred(some) if points.metric == "l2" else points.scale(some)
        best, indices = left.new_empty(len(left), 0), torch.empty(len(left), 0, dtype=torch.int64)
        for first in range(0, len(points), _POINTS_FLOAT64):
            right = points.centred(points.vectors[first : first + _POINTS_FLOAT64])
            key = left @ -right.T
            if points.metric == "l2":
                key += right.square().sum(1) / 2
            best = torch.cat([best, key], 1)
            indices = torch.cat([indices, torch.arange(first, first + len(right)).expand(len(left), -1)], 1)
            order = best.sort(dim=1, stable=True).indices[:, :count]  # topk may take any of equal points
            best, indices = best.gather(1, order), indices.gather(1, order)
        parts.append(indices)
    return torch.cat(parts)
