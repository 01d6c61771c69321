"""The k nearest of all points, exactly: candidates from fast products, their true order from float64.

A product in a narrow format is near the true one, within a bound that is known for every pair (see `coordinates`). So
the k-th largest *lower* bound of a query is a floor, and whatever may lie above that floor is a candidate: there can be
a few more than k of them, never one too few. All candidates are measured in float64, from the vectors as they were
given, and sorted by value, then by index. How they were found - which format, which device, in which parts - leaves no
trace.

Queries with too many candidates, because their points differ by less than the format can tell, are searched again in
the next wider format. The one exception are points that float64 cannot tell apart either, over a thousand of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from ood_core.neighbors.coordinates import Frame, Metric, Shard
from ood_core.neighbors.engine import gpus
from ood_core.neighbors.floor import Candidates, from_faiss, from_products

_SHARD_ROWS = 65_536
_SHARD_BYTES = 2**27
_PRODUCT_BYTES = 2**26
_QUERIES = 8192
_PAIR_NUMBERS = 2**20  # of the pairs that are measured at a time: their vectors stay in the cache


def search(
    queries: Tensor, frame: Frame, k: int, place: Literal["cpu", "gpu"] = "cpu", kept: Sequence[Shard] = ()
) -> tuple[Tensor, Tensor]:
    """Return values, float64 [N, k], and indices, int64 [N, k], best first, the lower index first among equals.

    Args:
        queries: [N, D]; a row that is not finite gets values that are not finite.
        frame: The points, finite.
        k: At most as many as there are points.
        place: Where to look for candidates first.
        kept: The shards in the first format, where someone has kept them.
    """
    values = torch.empty(len(queries), k, dtype=torch.float64)
    indices = torch.arange(k).repeat(len(queries), 1)
    sound = queries.isfinite().all(1)
    broken = (~sound).nonzero()[:, 0]
    values[broken] = measure(queries[broken], frame, indices[broken])
    todo = sound.nonzero()[:, 0]
    for form in formats(place):
        if len(todo) == 0:
            break
        last = form == torch.float64
        shards = kept if kept and form == formats(place)[0] else None
        gpu = place == "gpu" and not last
        blocks = _candidates(queries[todo], frame, k, form, gpu, shards)
        unclear = []
        for start, found in blocks:
            mine = todo[start : start + len(found.hard)]
            settled = mine[~found.hard]
            unclear.append(mine[found.hard])
            values[settled], indices[settled] = _settle(queries[mine], frame, found, k)
        todo = torch.cat(unclear)
    return values, indices


def formats(place: Literal["cpu", "gpu"]) -> tuple[torch.dtype, ...]:
    """Return the formats to search in, one after the other."""
    if place == "gpu":
        return torch.float32, torch.float64
    return (torch.bfloat16,) * has_bfloat16() + (torch.float32, torch.float64)


def cut(frame: Frame, form: torch.dtype) -> Iterator[Shard]:
    """Yield the points shard by shard: no more than one of them needs to be in memory."""
    rows = _shard_rows(frame, form)
    for first in range(0, len(frame.points), rows):
        yield frame.shard(first, min(first + rows, len(frame.points)), form)


def _shard_rows(frame: Frame, form: torch.dtype) -> int:
    count, dimension = frame.points.shape
    return max(1, min(count, _SHARD_ROWS, _SHARD_BYTES // (max(dimension, 1) * form.itemsize)))


def measure(queries: Tensor, frame: Frame, indices: Tensor) -> Tensor:
    """Return what each query [N, D] has with each of its points [N, k], float64 [N, k]."""
    rows = torch.arange(len(queries))[:, None].expand_as(indices).reshape(-1)
    return measure_pairs(queries, frame, rows, indices.reshape(-1)).view(indices.shape)


def measure_pairs(queries: Tensor, frame: Frame, rows: Tensor, indices: Tensor) -> Tensor:
    """Return what query rows[i] has with point indices[i], float64 [M]; it does not depend on the other pairs."""
    values = torch.empty(len(rows), dtype=torch.float64)
    step = max(2, _PAIR_NUMBERS // max(queries.shape[1], 1))
    queries = frame.measured(queries)
    # Written once and again: fresh memory for every part would take longer than the arithmetic
    given, left, right = (
        torch.empty(min(step, len(rows) + 1), queries.shape[1], dtype=form)
        for form in (frame.points.dtype, torch.float64, torch.float64)
    )
    for start in range(0, len(rows), step):
        chosen, their = rows[start : start + step], indices[start : start + step]
        torch.index_select(queries, 0, chosen, out=left[: len(chosen)])
        torch.index_select(frame.points, 0, their, out=given[: len(chosen)])
        right[: len(chosen)] = given[: len(chosen)]
        size = max(2, len(chosen))  # torch would split a single sum among its threads
        one, other = left[:size], right[:size]
        terms = one.sub_(other).square_() if frame.metric == "l2" else one.mul_(other)
        values[start : start + step] = terms.sum(1)[: len(chosen)]
    return values if frame.metric != "cosine" else values / frame.norms[indices]


def best(rows: Tensor, indices: Tensor, values: Tensor, k: int, metric: Metric) -> tuple[Tensor, Tensor]:
    """Return the best k of each row's pairs, [N, k] values and indices; every row has k.

    Args:
        rows: int64 [M], the row of each pair; all of 0 to N - 1 occur.
        indices: int64 [M].
        values: float64 [M].
        k: How many to keep.
        metric: Squared distances are best small, the others large.
    """
    order = indices.argsort(stable=True)
    order = order[(values if metric == "l2" else -values)[order].argsort(stable=True)]
    order = order[rows[order].argsort(stable=True)]
    counts = torch.bincount(rows)
    rank = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows[order]]
    order = order[rank < k]
    return values[order].view(-1, k), indices[order].view(-1, k)


def _candidates(
    queries: Tensor, frame: Frame, k: int, form: torch.dtype, gpu: bool, shards: Sequence[Shard] | None
) -> Iterator[tuple[int, Candidates]]:
    """Yield the start of each block of queries and its candidates."""
    step = _QUERIES
    if form != torch.float32:  # faiss keeps its products to itself
        step = max(1, min(step, _PRODUCT_BYTES // (_shard_rows(frame, form) * form.itemsize)))
    starts = range(0, len(queries), step)
    found = [Candidates.none(len(queries[start : start + step]), k) for start in starts]

    def look(block: int, shard: Shard) -> Candidates:
        side = frame.side(queries[starts[block] : starts[block] + step], shard)
        if form == torch.float32:
            new = from_faiss(side, shard, k, block % gpus() if gpu else None)
        else:
            new = from_products(side, shard, k, found[block].floor)
        return found[block].joined(new)

    with ThreadPoolExecutor(gpus() if gpu else 1) as pool:
        for shard in shards or cut(frame, form):
            blocks = range(len(starts))
            found = list((pool.map if gpu else map)(look, blocks, [shard] * len(blocks)))
    yield from zip(starts, found, strict=True)


def _settle(queries: Tensor, frame: Frame, found: Candidates, k: int) -> tuple[Tensor, Tensor]:
    clear = ~found.hard[found.rows]
    rows, indices = found.rows[clear], found.indices[clear]
    values = measure_pairs(queries, frame, rows, indices)
    among = (~found.hard).cumsum(0) - 1  # rows without candidates leave no gap
    if len(rows) == 0:
        return torch.empty(0, k, dtype=torch.float64), torch.empty(0, k, dtype=torch.int64)
    return best(among[rows], indices, values, k, frame.metric)


@cache
def has_bfloat16() -> bool:
    """Return whether this CPU multiplies bfloat16 faster than float32, and sums the products in float32."""
    able = torch.cpu.get_capabilities()
    if not (able.get("avx512_bf16") or able.get("amx_bf16")):
        return False
    draw = torch.Generator().manual_seed(0)
    left, right = (torch.randn(n, 1024, generator=draw).abs().bfloat16() for n in (64, 512))
    true = left.double() @ right.double().T
    return bool(((left @ right.T).double() - true).abs().le((2.0**-8 + 1e-4) * true).all())
