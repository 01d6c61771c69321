"""Scaling of embeddings before distances are computed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt, Lt
from torch import Tensor
from torch.nn.functional import normalize

from ood_core.interfaces import Outputs
from ood_core.statistics import moments

Share = Annotated[float, Gt(0), Lt(1)]


def prepare(embeddings: Tensor, unit: bool) -> Tensor:
    """Return the embeddings in float64, scaled to unit length if `unit`; zero stays zero."""
    return normalize(embeddings.double()) if unit else embeddings.double()


def chunks(train: Outputs, unit: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield embeddings and labels of the training outputs."""
    for chunk in train.chunks():
        # float32 is kept if not scaled: the moments copy each block to float64 themselves
        yield normalize(chunk.embeddings.double()) if unit else chunk.embeddings, chunk.labels


def chunks_as_one_class(train: Outputs, unit: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield embeddings of the training outputs, with labels 0."""
    return ((embeddings, torch.zeros_like(labels)) for embeddings, labels in chunks(train, unit))


@dataclass(frozen=True)
class Standardization:
    """Unit length, then zero mean and unit variance in each dimension as in SSD; constants are only centred."""

    mean: Tensor  # float64 [D]
    scale: Tensor  # float64 [D], inverse standard deviations

    @classmethod
    def of(cls, train: Outputs) -> Standardization:
        """Return the standardization of these training outputs."""
        found = moments(chunks_as_one_class(train, unit=True), classes=1)
        deviation = found.tied_covariance.diagonal().clamp(min=0).sqrt()
        constant = deviation <= 1e-12 * deviation.max()
        return cls(found.mean, torch.where(constant, 1, 1 / deviation.clamp(min=torch.finfo(torch.float64).tiny)))

    def chunks(self, outputs: Outputs) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield standardized embeddings, with labels 0."""
        return ((self(chunk.embeddings), torch.zeros_like(chunk.labels)) for chunk in outputs.chunks())

    def __call__(self, embeddings: Tensor) -> Tensor:
        return (normalize(embeddings.double()) - self.mean) * self.scale
