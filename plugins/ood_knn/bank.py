"""Bank of training outputs to compare embeddings with."""

from __future__ import annotations

import logging
import math
from typing import Annotated, Literal, TypeAlias

import torch
from annotated_types import Gt, Le

from ood_core.errors import OODError
from ood_core.interfaces import Outputs

_LOG = logging.getLogger(__name__)

Sample: TypeAlias = Annotated[float, Gt(0), Le(1)]
Kind: TypeAlias = Literal["flat", "ivf", "ivf-pq"]


def sample_outputs(train: Outputs, share: float, seed: int) -> Outputs:
    """Return a random share of the training outputs, at least one row, in their original order.

    Raises:
        OODError: There are no training images.
    """
    if not len(train):
        raise OODError("there is no training image to compare with")
    if share == 1:
        return train  # memory-mapped, as it is
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    return train[order[: math.ceil(share * len(train))].sort().values]


def limit_neighbours(k: int, most: int, scorer: str) -> int:
    """Return k, or the number of neighbours if that is smaller."""
    if k > most:
        _LOG.warning("%s: there are %d neighbours, k = %d is cut to that", scorer, most, k)
    return min(k, most)
