"""The distance to the nearest of a few points, such as whitened class means: exact, most of it at float32 speed."""

from __future__ import annotations

import torch
from torch import Tensor

_ROWS = 512  # whose products with the points stay in cache
_CANDIDATES = 3


def least_distance(queries: Tensor, points: Tensor) -> Tensor:
    """Return the squared Euclidean distance to the nearest point, float64 [N].

    Candidates come from float32 products and are measured again in float64. A bound on the rounding error tells where
    another point could still be nearer; those rows are computed in float64 altogether.

    Args:
        queries: float64 [N, D], with the origin somewhere among the points.
        points: float64 [K, D].
    """
    if not len(queries):
        return queries.new_zeros(0)
    single, lengths = points.float(), points.square().sum(1)
    return torch.cat([_block(block, points, single, lengths) for block in torch.split(queries, _ROWS)])


def _block(queries: Tensor, points: Tensor, single: Tensor, lengths: Tensor) -> Tensor:
    count = min(_CANDIDATES, len(points))
    # |q - p|^2 - |q|^2
    rough = torch.addmm(lengths.float(), queries.float(), single.T, alpha=-2)
    values, candidates = rough.topk(count, dim=1, largest=False, sorted=True)
    least = torch.stack([(queries - points[column]).square().sum(1) for column in candidates.T]).amin(0)
    if count == len(points):
        return least
    own = queries.square().sum(1)
    bound = _rounding(points.shape[1]) * (2 * (own * lengths.max()).sqrt() + lengths.max())
    sure = least - own <= values[:, -1].double() - bound  # False for what is not finite in float32
    if not sure.all():
        doubtful = queries[~sure]
        products = torch.addmm(lengths, doubtful, points.T, alpha=-2)
        least[~sure] = (doubtful - points[products.argmin(1)]).square().sum(1)
    return least


def _rounding(dimension: int) -> float:
    """Return the relative error of a float32 dot product of rounded numbers, at most (D + 4) half units."""
    return (dimension + 4) * torch.finfo(torch.float32).eps / 2
