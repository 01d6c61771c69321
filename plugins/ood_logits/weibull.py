"""Weibull distributions of the largest distances of each class, fitted for all classes at once.

As in the library that the authors of OpenMax published, the distribution begins 10000 below the smallest of the
distances; there it is close to a Gumbel distribution of the smallest value, with a scale of its own for each class.
Everything is in terms of y = log(1 + (distance - smallest) / 10000), where the likelihood stays well scaled.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_OFFSET = 1e4
_FLAT = 1e-12  # least spread of y: of tails that do not vary
_BISECTIONS = 60
_CERTAIN = 700.0  # of the exponent: exp() of it is finite


@dataclass(frozen=True)
class Weibull:
    """float64 [C] each."""

    smallest: Tensor  # of the distances in the tail
    shape: Tensor  # kappa
    log_scale: Tensor  # log lambda, where the tail is mostly smaller

    def cdf(self, distances: Tensor, classes: Tensor) -> Tensor:
        """Return the share of the tail of each class that is nearer than the distance, in [0, 1], shaped like it."""
        y = _log_distance(distances, self.smallest[classes])
        exponent = self.shape[classes] * (y - self.log_scale[classes])
        return -torch.expm1(-exponent.clamp(max=_CERTAIN).exp())


def fit(tails: Tensor) -> Weibull:
    """Return the distributions of greatest likelihood.

    Args:
        tails: float64 [C, tail] with nan behind the last distance of a class; classes without any get a distribution
            by which every distance is large.
    """
    present = ~tails.isnan()
    count = present.sum(1).clamp(min=1)
    smallest = tails.nan_to_num(torch.inf).amin(1)
    empty = ~present.any(1)
    smallest[empty] = 0.0
    y = torch.where(present, _log_distance(tails.nan_to_num(0.0), smallest[:, None]), 0.0)
    mean = y.sum(1) / count
    centred = torch.where(present, y - mean[:, None], 0.0)
    spread = (centred.square().sum(1) / count).sqrt().clamp(min=_FLAT)
    t = torch.where(present, centred / spread[:, None], -torch.inf)
    shape = _shape(t)
    log_scale = (torch.logsumexp(shape[:, None] * t, 1) - count.log()) / shape
    shape, log_scale = shape / spread, mean + spread * log_scale
    return Weibull(smallest, torch.where(empty, 1.0, shape), torch.where(empty, -_CERTAIN, log_scale))


def _shape(t: Tensor) -> Tensor:
    """Return the root of sum t exp(k t) / sum exp(k t) = 1/k for each row of standardised t; the left side rises."""
    low, high = torch.full((len(t),), 1e-3, dtype=t.dtype), torch.full((len(t),), 1e3, dtype=t.dtype)
    finite = t.nan_to_num(neginf=0.0)
    for _ in range(_BISECTIONS):
        middle = (low * high).sqrt()
        weights = (middle[:, None] * t).softmax(1).nan_to_num(0.0)
        above = (weights * finite).sum(1) > 1 / middle
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return (low * high).sqrt()


def _log_distance(distances: Tensor, smallest: Tensor) -> Tensor:
    return ((distances - smallest) / _OFFSET).clamp(min=-1 + 1e-9).log1p()
