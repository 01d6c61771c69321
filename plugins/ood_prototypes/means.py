"""Class means in one pass over the training outputs, in memory C D."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ood_core.errors import OODError


def class_means(parts: Iterable[tuple[Tensor, Tensor]], classes: int) -> tuple[Tensor, Tensor]:
    """Return the means [C, D], zero for classes without a row, and how many rows each has, int64 [C].

    Args:
        parts: Embeddings [n, D] with labels int64 [n].
        classes: C.

    Raises:
        OODError: There is no row, a label lies outside of [0, C), or an embedding is not finite.
    """
    counts = torch.zeros(classes, dtype=torch.int64)
    sums: Tensor | None = None
    for embeddings, labels in parts:
        require_usable(embeddings, labels, classes)
        if sums is None:
            sums = torch.zeros(classes, embeddings.shape[1], dtype=torch.float64)
        sums.index_add_(0, labels, embeddings.double())
        counts += labels.bincount(minlength=classes)
    if sums is None or not len(labels):
        raise OODError("there is no training image to take the mean of")
    return sums / counts.clamp(min=1)[:, None], counts


def require_usable(embeddings: Tensor, labels: Tensor, classes: int) -> None:
    """Raise OODError for a label outside of [0, C) or an embedding that is not finite."""
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise OODError(f"labels of training data must lie in 0..{classes - 1}, there is {wrong[0].item()}")
    broken = int((~embeddings.isfinite()).any(1).sum())
    if broken:
        raise OODError(f"{broken} of {len(embeddings)} training embeddings hold NaN or infinite values")
