"""A linear classifier by weighted cross-entropy over data that is read again for every step, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from ood_core.errors import OODError

Rows: TypeAlias = Callable[[], Iterator[tuple[Tensor, Tensor, float]]]
"""Begins anew each time: rows float64 [n, D], their outputs int64 [n], and the weight of each of them."""


@dataclass(frozen=True)
class Linear:
    """z = W f + b.

    Attributes:
        weight: float64 [C, D].
        bias: float64 [C].
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        """Return logits [n, C]."""
        return linear(rows, self.weight, self.bias)


def fitted(rows: Rows, shape: tuple[int, int], decay: float, iterations: int) -> Linear:
    """Return the classifier with the least sum of weighted cross-entropies + decay / 2 * ||W||^2, by L-BFGS.

    Args:
        rows: All data.
        shape: Outputs and D.
        decay: Of the weights alone, not of the bias.
        iterations: At most so many; each reads the data once or a few times.

    Raises:
        OODError: A row is not finite.
    """
    weight = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(shape[0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=iterations, tolerance_grad=1e-6, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        total = decay / 2 * weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        for part, outputs, each in rows():
            errors = each * cross_entropy(linear(part, weight, bias), outputs, reduction="sum")
            errors.backward()  # type: ignore[no-untyped-call] # one chunk's graph at a time is in memory
            total = total.detach() + errors.detach()
        if not total.isfinite():
            raise OODError("embeddings to fit a classifier to hold NaN or infinite values")
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return Linear(weight.detach(), bias.detach())
