"""Class-conditional moments in one pass over the data, in float64 and on the device where the embeddings are.

Moments of parts merge into the moments of the whole (Chan, Golub and LeVeque, 1983), so that chunks, shards and workers
can be summed up in any order, in memory C D + D D.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Self, TypeAlias

import torch
from torch import Tensor

from ood_core.errors import OODError
from ood_core.statistics.centring import Centring

Parts: TypeAlias = Iterable[tuple[Tensor, Tensor]]
"""Embeddings [n, D] with labels int64 [n], chunk by chunk."""

_BANDS = 4  # of a symmetric product; more are too narrow to be fast


@dataclass(frozen=True)
class ClassMoments:
    """Counts, means and the scatter of a set of embeddings, class by class."""

    counts: Tensor
    """int64 [C]."""
    means: Tensor
    """[C, D]; zero for classes without a row."""
    within: Tensor
    """[D, D], the sum over rows of the outer product of the deviation from the mean of the row's class."""

    @classmethod
    def of(cls, embeddings: Tensor, labels: Tensor, classes: int) -> Self:
        """Return the moments of these rows, [N, D] and int64 [N]; OODError as `moments`."""
        return cls(*_tied([(embeddings, labels)], classes))

    def merge(self, other: Self) -> Self:
        """Return the moments of both sets of rows together."""
        counts = self.counts + other.counts
        share = other.counts.double() / counts.clamp(min=1)
        weight = self.counts * share
        both = weight > 0
        gap = other.means - self.means
        drift = gap[both] * weight[both, None].sqrt()
        return type(self)(counts, self.means + gap * share[:, None], self.within + other.within + drift.T @ drift)

    @property
    def mean(self) -> Tensor:
        """The mean of all rows, [D]."""
        shares = self.counts.double() / self.counts.sum()
        rough = shares @ self.means
        return rough + shares @ (self.means - rough)  # the second round makes it exact for constants

    @property
    def between(self) -> Tensor:
        """The scatter of the class means around the mean, each as often as its class has rows, [D, D]."""
        deviations = (self.means - self.mean) * self.counts.double().sqrt()[:, None]
        return deviations.T @ deviations

    @property
    def tied_covariance(self) -> Tensor:
        """The covariance within classes, which all of them share, [D, D]; divided by N."""
        return self.within / self.counts.sum()

    @property
    def covariance(self) -> Tensor:
        """The covariance of all rows whatever their class, [D, D]; divided by N."""
        return (self.within + self.between) / self.counts.sum()


@dataclass(frozen=True)
class GroupMoments:
    """Counts, means and the scatter of every group of a set of embeddings for itself."""

    counts: Tensor
    """int64 [G]."""
    means: Tensor
    """[G, D]; zero for groups without a row."""
    scatters: Tensor
    """[G, D, D], the sum over the rows of a group of the outer products of the deviations from its mean."""


def moments(parts: Parts, classes: int) -> ClassMoments:
    """Return the moments of all parts.

    Raises:
        OODError: There is no row, a label lies outside of [0, C), or an embedding is not finite.
    """
    return ClassMoments(*_tied(_with_rows(parts), classes))


def moments_of_each(parts: Parts, groups: int) -> GroupMoments:
    """Return the moments of every group, its number in the place of a label. Memory is G D D, which is inherent.

    Raises OODError as `moments`.
    """
    parts = _with_rows(parts)
    first = next(parts)
    centring, dimension = Centring(groups, first[0]), first[0].shape[1]
    scatters = first[0].new_zeros(groups, dimension, dimension, dtype=torch.float64)
    for embeddings, labels in chain([first], parts):
        for block, of_group in centring.deviations(embeddings, labels):
            sizes = of_group.bincount(minlength=groups).tolist()
            in_turn = block[of_group.argsort(stable=True)]
            for scatter, rows in zip(scatters, torch.split(in_turn, sizes), strict=True):
                if len(rows):
                    scatter.addmm_(rows.T, rows)
    for scatter, missed, count in zip(scatters, centring.missed(), centring.counts.tolist(), strict=True):
        scatter.addr_(missed, missed, alpha=-count)
    return GroupMoments(centring.counts, centring.means(), scatters)


def _tied(parts: Parts, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return counts, means and the scatter within classes of at least one part."""
    parts = iter(parts)
    first = next(parts)
    centring, dimension = Centring(classes, first[0]), first[0].shape[1]
    within, width = first[0].new_zeros(dimension, dimension, dtype=torch.float64), math.ceil(dimension / _BANDS)
    for embeddings, labels in chain([first], parts):
        for block, _ in centring.deviations(embeddings, labels):
            for start in range(0, dimension, width):  # not below the blocks on the diagonal, which saves three eighths
                within[start : start + width, start:].addmm_(block[:, start : start + width].T, block[:, start:])
    within = within.triu() + within.triu(1).T
    drift = centring.missed() * centring.counts.double().sqrt()[:, None]
    return centring.counts, centring.means(), within - drift.T @ drift


def _with_rows(parts: Parts) -> Iterator[tuple[Tensor, Tensor]]:
    """Return the parts that have a row; OODError if there is none."""
    filled = ((embeddings, labels) for embeddings, labels in parts if len(embeddings))
    if (first := next(filled, None)) is None:
        raise OODError("there is no training image to take statistics of")
    return chain([first], filled)
