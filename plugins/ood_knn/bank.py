"""The training outputs that embeddings are compared with."""

from __future__ import annotations

import logging
import math
from typing import Annotated, TypeAlias

import torch
from annotated_types import Gt, Le

from ood_core.errors import OODError
from ood_core.interfaces import Outputs

_LOG = logging.getLogger(__name__)

Sample: TypeAlias = Annotated[float, Gt(0), Le(1)]


def draw(train: Outputs, share: float, seed: int) -> Outputs:
    """Return a random share of the training outputs, at least one row, in the order they had.

    Raises:
        OODError: There is no training image.
    """
    if not len(train):
        raise OODError("there is no training image to compare with")
    if share == 1:
        return train  # memory-mapped, as it is
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    return train[order[: math.ceil(share * len(train))].sort().values]


def cut(k: int, most: int, scorer: str) -> int:
    """Return k, or how many neighbours there are."""
    if k > most:
        _LOG.warning("%s: there are %d neighbours, k = %d is cut to that", scorer, most, k)
    return min(k, most)


def require_logits(train: Outputs, scorer: str) -> None:
    """Raise OODError where no head was trained."""
    if not train.logits.shape[1]:
        raise OODError(f"scorer '{scorer}' needs logits, and no training stage gives the network a classifier")
