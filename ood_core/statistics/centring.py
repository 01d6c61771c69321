"""Deviations of embeddings from the means of their classes, before these are known: one pass, nothing cancels."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ood_core.errors import OODError

_ROWS = 2048  # at once, so that the float64 copy, which is read several times, stays in cache


class Centring:
    """Takes a first guess of each class mean off: that of the first rows of the class.

    The guess is near the mean, so correcting sums for what it missed cancels nothing, however far from 0 the embeddings
    lie or their classes from each other, and no row is touched twice.
    """

    def __init__(self, classes: int, like: Tensor) -> None:
        self.counts = torch.zeros(classes, dtype=torch.int64, device=like.device)
        """int64 [C], rows so far."""
        self._guesses = like.new_zeros(classes, like.shape[1], dtype=torch.float64)
        self._sums = torch.zeros_like(self._guesses)
        self._block = like.new_empty(0, like.shape[1], dtype=torch.float64)
        self._centres = torch.empty_like(self._block)

    def deviations(self, embeddings: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield blocks of deviations from the guesses, float64 [n, D], with their labels; the next overwrites the last.

        Raises:
            OODError: A label lies outside of [0, C), or an embedding is not finite.
        """
        if len(wrong := labels[(labels < 0) | (labels >= len(self.counts))]):
            span = f"0..{len(self.counts) - 1}"
            raise OODError(f"labels of training data must lie in {span}, there is {wrong[0].item()}")
        for rows, of_class in zip(torch.split(embeddings, _ROWS), torch.split(labels, _ROWS), strict=True):
            yield self._deviations(rows, of_class), of_class
        if not self._sums.sum().isfinite():
            broken = int((~embeddings.isfinite()).any(1).sum())
            raise OODError(f"{broken} of {len(embeddings)} training embeddings hold NaN or infinite values")

    def missed(self) -> Tensor:
        """Return the means of the deviations, [C, D]."""
        return self._sums / self.counts.clamp(min=1)[:, None]

    def means(self) -> Tensor:
        """Return the class means, [C, D]; zero for classes without a row."""
        return self._guesses + self.missed()

    def _deviations(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        count = len(embeddings)
        if len(self._block) < count:  # written over and over: fresh memory costs more than the arithmetic
            self._block, self._centres = (self._block.new_empty(count, self._block.shape[1]) for _ in range(2))
        block, centres = self._block[:count], self._centres[:count]
        block.copy_(embeddings)
        counts = labels.bincount(minlength=len(self.counts))
        fresh = (self.counts == 0) & (counts > 0)
        if fresh.any():
            self._guess(block, labels, counts, fresh)
        torch.index_select(self._guesses, 0, labels, out=centres)
        block.sub_(centres)
        self.counts += counts
        self._sums.index_add_(0, labels, block)
        return block

    def _guess(self, block: Tensor, labels: Tensor, counts: Tensor, fresh: Tensor) -> None:
        """Guess the means of classes seen for the first time; twice, so that constants deviate by exactly 0."""
        rows = fresh[labels]
        mine, of_class = block[rows], labels[rows]
        for _ in range(2):
            gaps = mine - self._guesses[of_class]
            total = torch.zeros_like(self._guesses).index_add_(0, of_class, gaps)
            self._guesses += total / counts.clamp(min=1)[:, None]
