"""k-means by faiss, and the nearest of a few points such as centroids and class means."""

from __future__ import annotations

import torch
from torch import Tensor

from ood_core.errors import OODError
from ood_core.neighbors.faiss_backend import faiss, gpus
from ood_core.neighbors.vectors import normalize

_ROWS = 512  # whose products with the points stay in the cache


def kmeans(
    points: Tensor, clusters: int, seed: int, iterations: int = 25, spherical: bool = False, restarts: int = 1
) -> Tensor:
    """Return centroids, float32 [K, D]; equal seeds give equal centroids.

    Args:
        points: [N, D]; a random 256 K of them are used where there are more.
        clusters: K. A cluster that runs empty takes over half of another one.
        seed: Draws the first centroids.
        iterations: Rounds of assignment and averaging.
        spherical: Clusters by direction: points count by their direction only, and the centroids have norm 1.
        restarts: Runs from other first centroids; the one with the smallest distances, or largest cosines, is returned.

    Raises:
        OODError: There are fewer points than clusters, or some point is not finite.
    """
    if len(points) < clusters:
        raise OODError(f"k-means: {clusters} clusters need at least as many points, there are {len(points)}")
    if not points.isfinite().all():
        raise OODError("k-means: the points hold NaN or infinite values")
    points = points.double()
    centre = torch.zeros_like(points[0]) if spherical else points.mean(0)
    centred = normalize(points) if spherical else points - centre
    run = faiss().Kmeans(
        points.shape[1],
        clusters,
        niter=iterations,
        nredo=restarts,
        seed=seed,
        spherical=spherical,
        gpu=gpus() > 0,
        min_points_per_centroid=1,  # faiss warns on stderr below it
    )
    run.train(centred.float().numpy())
    return (torch.from_numpy(run.centroids) + centre).float()


def nearest(queries: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the squared distance to the nearest point, float64 [N], and its index, int64 [N]; differentiable.

    Products in float64 decide which point is nearest, relative to the mean of the points, so that little cancels; the
    first of equally near ones wins. A row of the queries [N, D] that is not finite gets a distance that is not.
    """
    points = points.double()
    centre = points.mean(0)
    centred = points - centre
    lengths = centred.square().sum(1)
    distances, indices = [], []
    # a graph has no parts: their number would depend on N
    for rows in (queries,) if torch.compiler.is_compiling() else torch.split(queries, _ROWS):
        index = torch.addmm(lengths, rows.double() - centre, centred.T, alpha=-2).argmin(1)
        distances.append((rows.double() - points[index]).square().sum(1))
        indices.append(index)
    return torch.cat(distances), torch.cat(indices)
