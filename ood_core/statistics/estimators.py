"""Estimators of the covariance within classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from ood_core.statistics.moments import ClassMoments, GroupMoments, Parts

_ROWS = 4096  # at once, so that the float64 copy is small

Estimator: TypeAlias = Literal["empirical", "ledoit-wolf", "oas", "diagonal"]
"""How the covariance is estimated: as it is; shrunk towards a multiple of the identity (Ledoit and Wolf, 2004; Chen et
al., 2010); or its diagonal alone."""


def covariance(found: ClassMoments, estimator: Estimator, parts: Parts) -> Tensor:
    """Return an estimate of the covariance that all classes share, [D, D]; of one class alone it is the global one.

    The parts, from which the moments are, are read a second time by Ledoit-Wolf alone.
    """
    fourth = _fourth_powers(found.means, parts).sum().item() if estimator == "ledoit-wolf" else 0.0
    return _estimate(found.tied_covariance, int(found.counts.sum()), estimator, fourth)


def covariances(found: GroupMoments, estimator: Estimator, parts: Parts) -> Iterator[Tensor]:
    """Yield an estimate of the covariance of every group that has a row, [D, D]; its scatter may be overwritten then.

    The parts have numbers of groups as labels, and are read a second time by Ledoit-Wolf alone.
    """
    fourth = _fourth_powers(found.means, parts).tolist() if estimator == "ledoit-wolf" else [0.0] * len(found.counts)
    for index, count in enumerate(found.counts.tolist()):
        if count:
            yield _estimate(found.scatters[index] / count, count, estimator, fourth[index])


def _estimate(empirical: Tensor, rows: int, estimator: Estimator, fourth: float) -> Tensor:
    if estimator == "empirical":
        return empirical
    if estimator == "diagonal":
        return torch.diag(empirical.diagonal())
    amount = _oas(empirical, rows) if estimator == "oas" else _ledoit_wolf(empirical, rows, fourth)
    shrunk = (1 - amount) * empirical
    shrunk.diagonal().add_(amount * empirical.diagonal().mean())
    return shrunk


def _oas(empirical: Tensor, rows: int) -> float:
    """Return the shrinkage of Chen et al., 2010, in the form that scikit-learn uses."""
    dimension = len(empirical)
    alpha, level = empirical.square().mean().item(), empirical.diagonal().mean().item() ** 2
    divisor = (rows + 1) * (alpha - level / dimension)
    return 1.0 if divisor <= 0 else min((alpha + level) / divisor, 1.0)


def _ledoit_wolf(empirical: Tensor, rows: int, fourth: float) -> float:
    """Return the shrinkage of Ledoit and Wolf, 2004: (1/N^2 sum of |d d^T - S|^2) / |S - level I|^2, at most 1."""
    squares = empirical.square().sum().item()
    spread = squares - len(empirical) * empirical.diagonal().mean().item() ** 2
    noise = (fourth / rows - squares) / rows
    return 0.0 if spread <= 0 or noise <= 0 else min(noise / spread, 1.0)


def _fourth_powers(means: Tensor, parts: Parts) -> Tensor:
    """Return the sums of the fourth powers of the lengths of the deviations from each class mean, [C]."""
    totals = means.new_zeros(len(means))
    for embeddings, labels in parts:
        for rows, of_class in zip(torch.split(embeddings, _ROWS), torch.split(labels, _ROWS), strict=True):
            lengths = (rows.double() - means[of_class]).square().sum(1)
            totals.index_add_(0, of_class, lengths.square())
    return totals
