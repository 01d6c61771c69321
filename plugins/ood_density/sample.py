"""The training embeddings that the fits here are given: as many as they can bear."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from ood_core.errors import OODError
from ood_core.interfaces import Outputs

_LOG = logging.getLogger(__name__)


def draw(train: Outputs, most: int, seed: int, scorer: str) -> Tensor:
    """Return the embeddings, or a random so many of them, [n, D] in the order they had.

    Raises:
        OODError: There is none, or one is not finite.
    """
    embeddings = train.embeddings
    if not len(embeddings):
        raise OODError(f"scorer '{scorer}' needs training images, there is none")
    if len(embeddings) > most:
        _LOG.info("%s is fitted to a random %d of %d training images", scorer, most, len(embeddings))
        order = torch.randperm(len(embeddings), generator=torch.Generator().manual_seed(seed))
        embeddings = embeddings[order[:most].sort().values]  # sorted, because they may be memory-mapped
    broken = int((~embeddings.isfinite()).any(1).sum())
    if broken:
        raise OODError(f"{broken} of {len(embeddings)} training embeddings hold NaN or infinite values")
    return embeddings
