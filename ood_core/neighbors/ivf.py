"""Inverted files: only the points in a few lists near the query are looked at. faiss finds, float64 measures.

For cosines the file holds vectors of norm 1, whose nearest are those of the largest cosine.
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ood_core.neighbors.faiss_backend import faiss, search_index
from ood_core.neighbors.vectors import ROWS, Metric, Points, to_faiss

Layout: TypeAlias = Literal["ivf", "ivf-pq"]

_SAMPLE = 512  # queries that recall is measured with
_TRAINING = 64  # points a list, or a code word, to learn them from
_ROUNDS = 10
_CODE_BYTES = 64  # most bytes of a PQ code
_FACTOR, _SPARE = {"ivf": 1, "ivf-pq": 4}, {"ivf": 4, "ivf-pq": 64}  # candidates: k times the one, plus the other


def build(points: Points, layout: Layout, lists: int, seed: int) -> Tensor:
    """Return the inverted file of all points as faiss writes it, uint8."""
    count, dimension = points.vectors.shape
    metric = faiss().METRIC_INNER_PRODUCT if points.metric == "inner" else faiss().METRIC_L2
    parts = max(part for part in range(1, min(_CODE_BYTES, dimension) + 1) if dimension % part == 0)
    few = max(1, min(4, int(math.log2(count))))
    bits = next((bits for bits in (8, 6, 5, 4) if 2**bits * _TRAINING <= count), few)  # what faiss has on GPUs
    # np: without a sorting of the code words that takes minutes and serves another kind of search
    code = "Flat" if layout == "ivf" else f"PQ{parts}x{bits}np"
    index = faiss().index_factory(dimension, f"IVF{lists},{code}", metric)
    for clustering in (index.cp,) if layout == "ivf" else (index.cp, index.pq.cp):
        clustering.seed, clustering.niter, clustering.min_points_per_centroid = seed, _ROUNDS, 1
    if layout == "ivf-pq":
        index.pq.cp.max_points_per_centroid = _TRAINING
    draw = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(count, generator=draw)[: max(_TRAINING * lists, 2**14)].sort().values
    index.train(_rows(points.vectors[chosen], points))
    for part in torch.split(points.vectors, ROWS):
        index.add(_rows(part, points))
    return torch.from_numpy(faiss().serialize_index(index))


def search(
    index: Any, points: Points, queries: Tensor, k: int, probes: int, layout: Layout
) -> tuple[Tensor, Tensor, Tensor]:
    """Return values and indices as the exact search does, [N, k], and where fewer than k were found, bool [N]."""
    finite = queries.isfinite().all(1)
    count = min(_FACTOR[layout] * k + _SPARE[layout], len(points))
    rows = _rows(torch.where(finite[:, None], queries, 0), points)
    candidates = search_index(index, rows, count, probes)[1]
    missed = ~finite | ((candidates >= 0).sum(1) < k)
    values, indices = points.rank(queries, candidates, k)
    return values, indices, missed


def sample_near(points: Tensor, seed: int) -> Tensor:
    """Return queries to measure recall with: half of them lie on points, half between two, where lists end."""
    pairs = _draw_pairs(points, seed)
    return torch.cat([pairs[0], pairs.mean(0)])


def sample_far(points: Tensor, seed: int) -> Tensor:
    """Return queries that are like no point, but each coordinate is one that some point has."""
    rows = _draw_pairs(points, seed)[0]
    return rows.gather(0, torch.rand(rows.shape, generator=torch.Generator().manual_seed(seed)).argsort(0))


def recall(values: Tensor, truth: Tensor, metric: Metric) -> float:
    """Return the share of the true neighbours that was found, in the half of the queries where it is smaller.

    A point as near as the last true neighbour counts, whichever of several equal ones it is.
    """
    last = truth[:, -1:]
    hits = (values <= last) if metric == "l2" else (values >= last)
    return min(float(half.double().mean()) for half in hits.tensor_split(2))


def _draw_pairs(points: Tensor, seed: int) -> Tensor:
    """Return two times the same number of points, [2, n, D]."""
    chosen = torch.randint(len(points), (2, _SAMPLE), generator=torch.Generator().manual_seed(seed + 1))
    return points[chosen.reshape(-1)].double().view(2, _SAMPLE, -1)


def _rows(rows: Tensor, points: Points) -> NDArray[np.float32]:
    return to_faiss(rows if points.metric == "inner" else points.centred(rows))
