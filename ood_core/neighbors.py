"""Nearest neighbours and k-means, on the GPU where faiss has one; the only module that imports faiss.

The search itself is float32. Its best candidates are measured again in float64, so that both devices give the same.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

import torch  # before faiss, whose OpenMP and BLAS libraries must not come first
from torch import Tensor

from ood_core.errors import OODError

_BUILDS = ("faiss-cpu", "faiss-gpu")
_CANDIDATES = 4
_FAR = 1e12  # times the extent of the points; beyond it all points are equally far in float64 too


def nearest(queries: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the squared distance to the nearest point, float64 [N], and its index, int64 [N].

    Args:
        queries: [N, D]; a row that is not finite gets a distance that is not finite.
        points: [K, D], finite; the first of equally near ones wins.
    """
    centre = points.double().mean(0)
    queries, points = queries.double() - centre, points.double() - centre
    extent = points.abs().max().item() or 1.0
    candidates = _search((queries / extent).clamp(-_FAR, _FAR), points / extent)
    distances = torch.stack([(queries - points[column]).square().sum(1) for column in candidates.T])
    least, rank = distances.min(0)
    return least, candidates.gather(1, rank[:, None])[:, 0]


def kmeans(points: Tensor, clusters: int, seed: int, iterations: int = 25) -> Tensor:
    """Return centroids, float32 [K, D]; equal seeds give equal centroids.

    Args:
        points: [N, D]; a random 256 K of them are used where there are more.
        clusters: K. A cluster that runs empty takes over half of another one.
        seed: Draws the first centroids.
        iterations: Rounds of assignment and averaging.

    Raises:
        OODError: There are fewer points than clusters, or some point is not finite.
    """
    if len(points) < clusters:
        raise OODError(f"k-means: {clusters} clusters need at least as many points, there are {len(points)}")
    if not points.isfinite().all():
        raise OODError("k-means: the points hold NaN or infinite values")
    centre = points.double().mean(0)
    run = _faiss().Kmeans(
        points.shape[1],
        clusters,
        niter=iterations,
        seed=seed,
        gpu=_gpus() > 0,
        min_points_per_centroid=1,  # faiss warns on stderr below it
    )
    run.train(_float32(points.double() - centre))
    return (torch.from_numpy(run.centroids) + centre).float()


def device() -> str:
    """Return what the search runs on, as the report says it: `faiss-cpu`, or `faiss-gpu: 2 GPUs`."""
    return f"faiss-gpu: {_gpus()} GPUs" if _gpus() else "faiss-cpu"


def _search(queries: Tensor, points: Tensor) -> Tensor:
    """Return the indices of the nearest few points in ascending order, int64 [N, k]."""
    arrays = _float32(queries), _float32(points)
    count = min(_CANDIDATES, len(points))
    found = _faiss().knn_gpu(_resources(), *arrays, count) if _gpus() else _faiss().knn(*arrays, count)
    indices: Tensor = torch.from_numpy(found[1])
    return indices.sort(1).values


def _float32(rows: Tensor) -> Any:
    return rows.float().contiguous().numpy()


def _gpus() -> int:
    return int(_faiss().get_num_gpus())


@cache
def _resources() -> Any:
    """Return the memory pool of the first GPU; making one costs more than a search."""
    return _faiss().StandardGpuResources()


@cache
def _faiss() -> ModuleType:
    """Import faiss, at the first use: it takes a third of a second.

    Raises:
        OODError: Two builds of faiss have overwritten each other.
    """
    if len(installed := [build for build in _BUILDS if _is_installed(build)]) > 1:
        both = " ".join(installed)
        raise OODError(
            f"{' and '.join(installed)} are both installed and overwrite each other's folder faiss; "
            f"run: pip uninstall -y {both}, then: pip install {installed[-1]} (or {installed[0]})"
        )
    import faiss

    return faiss


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True
