"""Draws the training embeddings that an estimator of scikit-learn is fitted to."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from ood_core.errors import OODError
from ood_core.interfaces import Outputs

_LOG = logging.getLogger(__name__)


def sample_embeddings(train: Outputs, most: int, seed: int, scorer: str) -> Tensor:
    """Return at most so many embeddings [n, D], all finite, drawn at random and in their original order."""
    embeddings = train.embeddings
    if not len(embeddings):
        raise OODError(f"scorer '{scorer}' needs training images, there is none")
    if len(embeddings) > most:
        _LOG.info("%s is fitted to a random %d of %d training images", scorer, most, len(embeddings))
        order = torch.randperm(len(embeddings), generator=torch.Generator().manual_seed(seed))
        embeddings = embeddings[order[:most].sort().values]  # sorted, because they may be memory-mapped
    if broken := int((~embeddings.isfinite()).any(1).sum()):
        raise OODError(f"{broken} of {len(embeddings)} training embeddings hold NaN or infinite values")
    return embeddings
