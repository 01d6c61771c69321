"""Weighted logistic regression, by L-BFGS over data that is read chunk by chunk in every iteration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from ood_core.errors import OODError

Rows: TypeAlias = Callable[[], Iterator[tuple[Tensor, Tensor, float]]]
"""Iterates anew at each call over rows float64 [n, D], their targets int64 [n], and the weight of each of them."""


@dataclass(frozen=True)
class Linear:
    """Logits z = W f + b."""

    weight: Tensor  # float64 [C, D]
    bias: Tensor  # float64 [C]


def fit_logistic_regression(rows: Rows, shape: tuple[int, int], decay: float, iterations: int) -> Linear:
    """Return the classifier [C, D] with the least sum of weighted cross-entropies + decay / 2 * ||W||^2."""
    weight = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(shape[0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=iterations, tolerance_grad=1e-6, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        total = decay / 2 * weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        for chunk, targets, each in rows():
            errors = each * cross_entropy(linear(chunk, weight, bias), targets, reduction="sum")
            errors.backward()  # type: ignore[no-untyped-call] # one chunk's graph at a time is in memory
            total = total.detach() + errors.detach()
        if not total.isfinite():
            raise OODError("embeddings to fit a classifier to hold NaN or infinite values")
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return Linear(weight.detach(), bias.detach())
