"""Which points can be among the k nearest, as far as products and their bounds can tell."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ood_core.neighbors.coordinates import Shard, Side
from ood_core.neighbors.engine import GPU_NEIGHBOURS, faiss, lock, resources

_GROUP = 32  # points that are looked at together, by their largest product
_GROUPS_PER_NEIGHBOUR = 8
_MOST = 8  # times k: about where measuring the candidates costs more than a search in the next format does
_SPARE = 32
_SHARE = 64
_LAST_MOST = 1024  # and 4 k, in float64: there more are points it cannot tell apart


@dataclass(frozen=True)
class Candidates:
    """Pairs of a query and a point that may be among its k nearest. Bounds in true units.

    Attributes:
        rows: int64 [M], which query, ascending.
        indices: int64 [M], which point.
        low: float64 [M], no more than the true value; larger is nearer.
        high: float64 [M], no less than the true value.
        floor: float64 [N, k], descending: the largest lower bounds; -inf where there are fewer.
        hard: bool [N]; there were too many, and the pairs are not complete.
    """

    rows: Tensor
    indices: Tensor
    low: Tensor
    high: Tensor
    floor: Tensor
    hard: Tensor

    @classmethod
    def none(cls, queries: int, k: int) -> Candidates:
        """Return the start: nothing found yet."""
        whole, real = torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.float64)
        floor = torch.full((queries, k), -torch.inf, dtype=torch.float64)
        return cls(whole, whole, real, real, floor, torch.zeros(queries, dtype=torch.bool))

    def joined(self, other: Candidates) -> Candidates:
        """Return those of both parts that can still be among the k nearest."""
        rows, order = torch.cat([self.rows, other.rows]).sort(stable=True)
        indices, low, high = (
            torch.cat([getattr(self, name), getattr(other, name)])[order] for name in ("indices", "low", "high")
        )
        counts = torch.bincount(rows, minlength=len(self.hard))
        rank = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
        k = self.floor.shape[1]
        table = low.new_full((len(self.hard), max(k, int(counts.max()) if len(counts) else 0)), -torch.inf)
        table[rows, rank] = low
        floor = table.topk(k, 1).values
        keep = high >= floor[rows, -1]
        return Candidates(rows[keep], indices[keep], low[keep], high[keep], floor, self.hard | other.hard)


def from_products(side: Side, shard: Shard, k: int, floor: Tensor) -> Candidates:
    """Return the candidates among the points of a shard.

    Args:
        side: The queries.
        shard: The points.
        k: Neighbours wanted.
        floor: [N, k], of the shards before.
    """
    count, last = len(shard.rows), shard.rows.dtype == torch.float64
    group = 1 if last else _GROUP
    while group > 1 and count < _GROUPS_PER_NEIGHBOUR * k * group:
        group //= 2
    groups = -(-count // group)
    products = shard.rows.new_empty(groups * group, len(side.rows))
    torch.mm(shard.rows, side.rows.T, out=products[:count])
    products[count:] = -torch.inf
    # Point j * groups + i is the j-th of group i: points of one class, which often follow each other, are parted
    grouped = products.view(group, groups, -1)
    tops = grouped.amax(0).T.to(torch.float64 if last else torch.float32).contiguous()
    bar = _bar(tops, side, floor)
    most = _LAST_MOST + 4 * k if last else min(_MOST * k, k + count // _SHARE) + _SPARE
    rows, places, hard = (_fewest if last else _above)(tops, bar, most)
    values = grouped[:, places, rows].to(tops.dtype)
    member, pair = (values >= bar[rows]).nonzero(as_tuple=True)
    indices, queries = member * groups + places[pair], rows[pair]
    if not last:
        hard = hard | (torch.bincount(queries, minlength=len(hard)) > most)
    real = (indices < count) & ~hard[queries]
    return _bounded(side, queries[real], shard.first + indices[real], values[member, pair][real], floor, hard)


def from_faiss(side: Side, shard: Shard, k: int, gpu: int | None) -> Candidates:
    """Return the same from what faiss finds in float32, on the CPU where no GPU is given."""
    count = min(k + max(32, k // 2), len(shard.rows))
    rows, metric = (side.rows.numpy(), shard.rows.numpy()), faiss().METRIC_INNER_PRODUCT
    if gpu is None:
        found = faiss().knn(*rows, count, metric=metric)
    else:
        count = min(count, GPU_NEIGHBOURS)
        with lock(gpu):
            found = faiss().knn_gpu(resources(gpu), *rows, count, metric=metric, device=gpu)
    values, indices = (torch.from_numpy(part) for part in found)
    if count == len(shard.rows):
        hard = torch.zeros(len(values), dtype=torch.bool)
    else:  # is the last that was found surely below the k-th?
        hard = values[:, min(k, count) - 1].double() - values[:, -1] <= 2 * side.error
    places = torch.arange(len(values))[:, None].expand_as(values).reshape(-1)
    floor = side.error.new_empty(len(values), 0)  # the pairs have it all
    return _bounded(side, places, shard.first + indices.reshape(-1), values.reshape(-1), floor, hard)


def _bar(tops: Tensor, side: Side, floor: Tensor) -> Tensor:
    """Return how large a product must be, [N], in the format of the tops: k other points are surely as near.

    Every top belongs to another point, so that the k-th largest lower bound among tops is one among points.
    """
    k = floor.shape[1]
    largest = tops.topk(min(k, tops.shape[1]), 1).values.double()
    bounds = (largest - side.result * largest.abs() - side.error[:, None]) * side.unit[:, None]
    bar = torch.cat([bounds, floor], 1).topk(k, 1).values[:, -1] / side.unit - side.error
    bar = torch.where(bar > 0, bar / (1 + side.result), bar / (1 - side.result))
    return (bar - 1e-6 * bar.abs()).to(tops.dtype) if tops.dtype == torch.float32 else bar


def _above(tops: Tensor, bar: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the groups [M] that reach the bar, query by query, and the queries [N] with too many, which get none."""
    reached = tops >= bar[:, None]
    hard = reached.sum(1) > most
    reached[hard] = False
    rows, places = reached.nonzero(as_tuple=True)
    return rows, places, hard


def _fewest(tops: Tensor, bar: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same where no wider format is left: where there are too many, the best, the first of equal ones."""
    reached = tops >= bar[:, None]
    for row in (reached.sum(1) > most).nonzero()[:, 0].tolist():
        best = tops[row].sort(descending=True, stable=True).indices[:most]
        reached[row] = False
        reached[row, best] = True
    rows, places = reached.nonzero(as_tuple=True)
    return rows, places, torch.zeros_like(bar, dtype=torch.bool)


def _bounded(side: Side, rows: Tensor, indices: Tensor, values: Tensor, floor: Tensor, hard: Tensor) -> Candidates:
    rows, order = rows.sort(stable=True)
    values = values[order].double()
    margin = side.error[rows] + side.result * values.abs()
    unit = side.unit[rows]
    return Candidates(rows, indices[order], (values - margin) * unit, (values + margin) * unit, floor, hard)
