"""The distance to the nearest of a few points, such as whitened class means: exact, most of it at float32 speed."""

from __future__ import annotations

import torch
from torch import Tensor

_ROWS = 512  # whose products with the points stay in cache
_CANDIDATES = 3
_NOTHING = 1e-12  # a relative error


def least_distance(queries: Tensor, points: Tensor) -> Tensor:
    """Return the squared Euclidean distance to the nearest point, float64 [N].

    Candidates come from float32 products and are measured again in float64. A bound on the rounding error tells where
    another point could still be nearer; those rows are searched again with float64 products, and where these cannot
    tell either, point by point.

    Args:
        queries: float64 [N, D], with the origin somewhere among the points.
        points: float64 [K, D].
    """
    formats, lengths = (points.float(), points), points.square().sum(1)
    return torch.cat([_least(rows, points, lengths, formats) for rows in torch.split(queries, _ROWS)])


def _least(queries: Tensor, points: Tensor, lengths: Tensor, formats: tuple[Tensor, ...]) -> Tensor:
    if not formats:
        return torch.cdist(queries, points, compute_mode="donot_use_mm_for_euclid_dist").amin(1).square()
    rounded, count = formats[0], min(_CANDIDATES, len(points))
    # |q - p|^2 - |q|^2
    rough = torch.addmm(lengths.to(rounded), queries.to(rounded), rounded.T, alpha=-2)
    values, candidates = rough.topk(count, dim=1, largest=False, sorted=True)
    least = torch.stack([(queries - points[column]).square().sum(1) for column in candidates.T]).amin(0)
    if count == len(points):
        return least
    own, longest = queries.square().sum(1), lengths.max()
    bound = _rounding(rounded) * (2 * (own * longest).sqrt() + longest) + _rounding(points) * (own + least)
    sure = (1 - _NOTHING) * least - own <= values[:, -1].double() - bound  # False for what overflows in float32
    if not sure.all():
        least[~sure] = _least(queries[~sure], points, lengths, formats[1:])
    return least


def _rounding(rows: Tensor) -> float:
    """Return the relative error of a dot product of rounded numbers, at most D + 4 half units."""
    return (rows.shape[1] + 4) * torch.finfo(rows.dtype).eps / 2
