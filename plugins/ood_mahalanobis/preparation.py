"""What is done to embeddings before distances are taken."""

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
    """Return the embeddings in float64, of unit length if wished; zero stays zero."""
    return normalize(embeddings.double()) if unit else embeddings.double()


def prepared(train: Outputs, unit: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield embeddings and labels of the training outputs, chunk by chunk."""
    for part in train.chunks():
        # without a change they stay float32 here: the moments copy each block to float64 themselves
        yield normalize(part.embeddings.double()) if unit else part.embeddings, part.labels


def unlabelled(train: Outputs, unit: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield embeddings chunk by chunk, all of one class."""
    for embeddings, labels in prepared(train, unit):
        yield embeddings, torch.zeros_like(labels)


@dataclass(frozen=True)
class Standardization:
    """Unit length, then zero mean and unit variance in each dimension, as SSD has it; constants are centred alone.

    Attributes:
        mean: float64 [D].
        scale: float64 [D], what is multiplied by.
    """

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, train: Outputs) -> Standardization:
        """Return the standardization of these training outputs."""
        found = moments(unlabelled(train, unit=True), classes=1)
        deviation = found.tied_covariance.diagonal().clamp(min=0).sqrt()
        constant = deviation <= 1e-12 * deviation.max()
        return cls(found.mean, torch.where(constant, 1, 1 / deviation.clamp(min=torch.finfo(torch.float64).tiny)))

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Return float64 [N, D]."""
        return (normalize(embeddings.double()) - self.mean) * self.scale
