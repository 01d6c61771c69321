"""Groups of embeddings, each with a covariance of its own: classes, or clusters."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ood_core.statistics import Estimator, GroupMoments, Parts, covariances, moments_of_each, principal

_LOG = logging.getLogger(__name__)

_ROWS = 1024  # at once, so that what is whitened stays in cache

FEW = 3
"""With fewer rows than so many there is no covariance: of two, both deviations give the same outer product."""


@dataclass(frozen=True)
class Groups:
    """Groups of embeddings, each with a whitening of its own: memory G D D, and G D D operations a row.

    Attributes:
        means: float64 [G, D].
        transforms: float64 [G, D, rank]; zero where a group varies in fewer directions than others.
        condition: Largest over smallest variance, in the group where this is worst.
    """

    means: Tensor
    transforms: Tensor
    condition: float

    @classmethod
    def fit(cls, parts: Callable[[], Parts], groups: int, estimator: Estimator, cutoff: float) -> Groups:
        """Return the groups that have a row; those with too few different ones take the covariance within all groups.

        Args:
            parts: Gives embeddings [n, D] with numbers of groups [n]; called again for the second pass of Ledoit-Wolf.
            groups: Numbers lie in [0, G).
            estimator: Of the covariance of each group.
            cutoff: Directions with at most this share of the largest variance are left out.
        """
        found = moments_of_each(parts(), groups)
        shared, poor = _shared(found), _poor(found)
        present = found.counts.nonzero()[:, 0]
        spectra: list[Tensor] = []
        for index, estimate in zip(present.tolist(), covariances(found, estimator, parts()), strict=True):
            variances, vectors = principal(shared if index in poor else estimate, cutoff)
            # In the place of scatters that are done with: there may be no room for a second stack.
            found.scatters[len(spectra)].zero_()[:, : len(variances)] = vectors / variances.sqrt()
            spectra.append(variances)
        rank = max(len(variances) for variances in spectra)
        condition = max((variances[-1] / variances[0]).item() for variances in spectra)
        _warn(len(poor), [len(variances) for variances in spectra], len(shared))
        return cls(found.means[present], found.scatters[: len(present), :, :rank].contiguous(), condition)

    def least(self, embeddings: Tensor) -> Tensor:
        """Return the squared distance to the mean of the nearest group, float64 [N]."""
        if torch.compiler.is_compiling():  # a graph has no parts
            return self._least(embeddings)
        return torch.cat([self._least(rows) for rows in torch.split(embeddings, _ROWS)])

    def _least(self, rows: Tensor) -> Tensor:
        least = rows.new_full((rows.shape[0],), torch.inf)
        for mean, transform in zip(self.means, self.transforms, strict=True):
            least = torch.minimum(least, ((rows - mean) @ transform).square().sum(1))
        return least


def _shared(found: GroupMoments) -> Tensor:
    """Return the covariance within all groups; the identity where there is none."""
    shared = found.scatters.sum(0) / found.counts.sum()
    if shared.any():
        return shared
    _LOG.warning("embeddings do not vary, at least not within groups; distances are Euclidean")
    return torch.eye(len(shared), dtype=torch.float64, device=shared.device)


def _poor(found: GroupMoments) -> frozenset[int]:
    """Return the groups whose rows are too few, or all the same."""
    spreads = found.scatters.diagonal(dim1=1, dim2=2).amax(1)
    poor = (found.counts > 0) & ((found.counts < FEW) | (spreads <= 0))
    return frozenset(poor.nonzero()[:, 0].tolist())


def _warn(poor: int, ranks: list[int], dimension: int) -> None:
    """Log once what a line for every group would hide."""
    if poor:
        _LOG.warning(
            "%d of %d groups have fewer than %d different images and take the covariance within all groups",
            poor,
            len(ranks),
            FEW,
        )
    if low := sum(rank < dimension for rank in ranks):
        _LOG.warning(
            "%d of %d groups vary in fewer than %d directions, the least in %d; the others are left out",
            low,
            len(ranks),
            dimension,
            min(ranks),
        )
