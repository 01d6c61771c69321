"""Inverted files: only the points in a few lists near the query are looked at. faiss finds, float64 measures.

For cosines the file holds vectors of norm 1, whose nearest are those of the largest cosine.
"""

from __future__ import annotations

import math
from threading import Lock
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ood_core.neighbors.coordinates import Frame, Metric
from ood_core.neighbors.engine import GPU_NEIGHBOURS, faiss
from ood_core.neighbors.exact import best, measure

_SAMPLE = 512  # queries that recall is measured with
_TRAINING = 64  # points a list that the lists are learned from
_ROUNDS = 10
_CODE_TRAINING = 64  # points a code word that the codes are learned from
_ADDED = 2**16  # points at a time
_CODE_BYTES = 64  # most bytes of a PQ code
_SPARE = {"ivf": 4, "ivf-pq": 64}  # candidates beyond k, that float64 puts in order
_MARGIN = {"ivf": 0, "ivf-pq": 3}  # times k, beyond k


def usual_lists(count: int) -> int:
    """Return four times the root of the number of points, but no lists of fewer than a few points."""
    return max(1, min(4 * math.isqrt(count), count // 32))


def build(frame: Frame, kind: Literal["ivf", "ivf-pq"], lists: int, seed: int) -> Tensor:
    """Return the inverted file of all points as faiss writes it, uint8."""
    count, dimension = frame.points.shape
    inner = frame.metric == "inner"
    metric = faiss().METRIC_INNER_PRODUCT if inner else faiss().METRIC_L2
    parts = max(part for part in range(1, min(_CODE_BYTES, dimension) + 1) if dimension % part == 0)
    few = max(1, min(4, int(math.log2(count))))
    bits = next((bits for bits in (8, 6, 5, 4) if 2**bits * _CODE_TRAINING <= count), few)  # what faiss has on GPUs
    # np: without a sorting of the code words that takes minutes and serves another kind of search
    layout = f"IVF{lists},Flat" if kind == "ivf" else f"IVF{lists},PQ{parts}x{bits}np"
    index = faiss().index_factory(dimension, layout, metric)
    index.cp.seed, index.cp.niter, index.cp.min_points_per_centroid = seed, _ROUNDS, 1
    if kind == "ivf-pq":
        index.pq.cp.seed, index.pq.cp.niter, index.pq.cp.min_points_per_centroid = seed, _ROUNDS, 1
        index.pq.cp.max_points_per_centroid = _CODE_TRAINING
    draw = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(count, generator=draw)[: max(_TRAINING * lists, 2**14)].sort().values
    index.train(_rows(frame.points[chosen], frame))
    for start in range(0, count, _ADDED):
        index.add(_rows(frame.points[start : start + _ADDED], frame))
    code: Tensor = torch.from_numpy(faiss().serialize_index(index))
    return code


def open_index(code: Tensor, place: Literal["cpu", "gpu"]) -> Any:
    """Return the live index, on all GPUs if on any, the points divided among them."""
    index = faiss().deserialize_index(code.numpy())
    if place == "cpu":
        return index
    options = faiss().GpuMultipleClonerOptions()
    options.shard = True
    return faiss().index_cpu_to_all_gpus(index, options)


def search(
    index: Any, queries: Tensor, frame: Frame, k: int, probes: int, kind: Literal["ivf", "ivf-pq"], lock: Lock
) -> tuple[Tensor, Tensor, Tensor]:
    """Return values and indices as the exact search does, and the rows [M] for which fewer than k were found."""
    sound = queries.isfinite().all(1)
    count = min(k + _MARGIN[kind] * k + _SPARE[kind], len(frame.points))
    rows = _rows(torch.where(sound[:, None], queries, 0), frame)
    if isinstance(index, faiss().IndexIVF):
        found = index.search(rows, count, params=faiss().SearchParametersIVF(nprobe=probes))[1]
    else:
        with lock:
            faiss().GpuParameterSpace().set_index_parameter(index, "nprobe", probes)
            found = index.search(rows, min(count, GPU_NEIGHBOURS))[1]
    candidates = torch.from_numpy(found)
    enough = ((candidates >= 0).sum(1) >= k) & sound
    values = torch.empty(len(queries), k, dtype=torch.float64)
    indices = torch.empty(len(queries), k, dtype=torch.int64)
    rest = candidates[enough]
    if len(rest):
        pairs = measure(queries[enough], frame, rest.clamp(min=0))
        row = torch.arange(len(rest))[:, None].expand_as(rest)
        real = rest >= 0
        values[enough], indices[enough] = best(row[real], rest[real], pairs[real], k, frame.metric)
    return values, indices, (~enough).nonzero()[:, 0]


def sample_near(points: Tensor, seed: int) -> Tensor:
    """Return queries to measure recall with: half of them lie on points, half between two, where lists end."""
    pairs = _draw(points, seed)
    return torch.cat([pairs[0], pairs.mean(0)])


def sample_far(points: Tensor, seed: int) -> Tensor:
    """Return queries that are like no point, but each coordinate is one that some point has."""
    rows = _draw(points, seed)[0]
    return rows.gather(0, torch.rand(rows.shape, generator=torch.Generator().manual_seed(seed)).argsort(0))


def recall(values: Tensor, truth: Tensor, metric: Metric) -> float:
    """Return which part of the true neighbours was found, in the half of the queries where it is smaller.

    A point as near as the last true neighbour counts, whichever of several equal ones it is.
    """
    last = truth[:, -1:]
    hits = (values <= last) if metric == "l2" else (values >= last)
    return min(float(half.double().mean()) for half in hits.tensor_split(2))


def _draw(points: Tensor, seed: int) -> Tensor:
    """Return two times the same number of points, [2, n, D]."""
    chosen = torch.randint(len(points), (2, _SAMPLE), generator=torch.Generator().manual_seed(seed + 1))
    return points[chosen.reshape(-1)].double().view(2, _SAMPLE, -1)


def _rows(rows: Tensor, frame: Frame) -> np.ndarray[Any, np.dtype[np.float32]]:
    moved = frame.plain(rows)
    return moved.float().contiguous().numpy()
