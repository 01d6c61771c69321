"""Groups of embeddings, classes or clusters, with a covariance each."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ood_core.statistics import Estimator, Parts, covariances, moments_of_each, principal

_LOG = logging.getLogger(__name__)

_CHUNK_ROWS = 1024  # so that whitened rows stay in cache
LEAST_ROWS = 3  # for a covariance: of two rows, both deviations have the same outer product


@dataclass(frozen=True)
class Groups:
    """Groups of embeddings with a whitening each: memory G D D, and G D D operations a row."""

    means: Tensor  # float64 [G, D]
    transforms: Tensor  # float64 [G, D, rank]; zero where a group varies in fewer directions than others
    condition: float  # largest over smallest variance, of the worst group

    @classmethod
    def fit(cls, parts: Callable[[], Parts], groups: int, estimator: Estimator, cutoff: float) -> Groups:
        """Return the groups that have a row; those with too few different rows take the covariance within all groups.

        `parts` yields embeddings [n, D] with group numbers [n], twice for Ledoit-Wolf.
        """
        found = moments_of_each(parts(), groups)
        shared = found.scatters.sum(0) / found.counts.sum()
        if not shared.any():
            _LOG.warning("embeddings do not vary, at least not within groups; distances are Euclidean")
            shared = torch.eye(len(shared), dtype=torch.float64, device=shared.device)
        constant = found.scatters.diagonal(dim1=1, dim2=2).amax(1) <= 0
        poor = (found.counts > 0) & ((found.counts < LEAST_ROWS) | constant)
        present = found.counts.nonzero()[:, 0]
        spectra: list[Tensor] = []
        for index, estimate in zip(present.tolist(), covariances(found, estimator, parts()), strict=True):
            variances, vectors = principal(shared if poor[index] else estimate, cutoff)
            # in the place of scatters that are no longer needed: there may be no room for a second stack
            found.scatters[len(spectra)].zero_()[:, : len(variances)] = vectors / variances.sqrt()
            spectra.append(variances)
        ranks = [len(variances) for variances in spectra]
        condition = max((variances[-1] / variances[0]).item() for variances in spectra)
        # one line each instead of one for every group
        if count := int(poor.sum()):
            _LOG.warning(
                "%d of %d groups have fewer than %d different images and take the covariance within all groups",
                *(count, len(ranks), LEAST_ROWS),
            )
        if count := sum(rank < len(shared) for rank in ranks):
            _LOG.warning(
                "%d of %d groups vary in fewer than %d directions, the least in %d; the others are left out",
                *(count, len(ranks), len(shared), min(ranks)),
            )
        return cls(found.means[present], found.scatters[: len(present), :, : max(ranks)].contiguous(), condition)

    def nearest(self, embeddings: Tensor) -> Tensor:
        """Return the squared distance to the mean of the nearest group, float64 [N]."""
        if torch.compiler.is_compiling():  # a graph has no chunks
            return self._nearest(embeddings)
        return torch.cat([self._nearest(rows) for rows in torch.split(embeddings, _CHUNK_ROWS)])

    def _nearest(self, rows: Tensor) -> Tensor:
        least = rows.new_full((rows.shape[0],), torch.inf)
        for mean, transform in zip(self.means, self.transforms, strict=True):
            least = torch.minimum(least, ((rows - mean) @ transform).square().sum(1))
        return least
