"""Exact quantiles of more numbers than fit into memory.

Floating-point numbers keep their order when their bits are read as integers. So the number of a given rank is found
digit by digit: a pass over the data counts how many numbers have each digit next, among those that begin with the
digits found so far. Three passes settle all 32 bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ood_core.errors import OODError
from ood_core.interfaces import Outputs

_DIGITS = (11, 11, 10)
_ROWS = 2048


def overall_quantiles(train: Outputs, shares: Sequence[float]) -> list[float]:
    """Return quantiles over all entries of all embeddings, interpolated as numpy does by default."""
    return [found.item() for found in _quantiles(train, shares, columns=1)]


def neuron_quantiles(train: Outputs, shares: Sequence[float]) -> list[Tensor]:
    """Return quantiles of each entry of the embeddings, each float64 [D]."""
    return _quantiles(train, shares, columns=train[:1].embeddings.shape[1])


def _quantiles(train: Outputs, shares: Sequence[float], columns: int) -> list[Tensor]:
    count = len(train) * train[:1].embeddings.shape[1] // columns
    if not count:
        raise OODError("there is no training image to take quantiles of")
    positions = [share * (count - 1) for share in shares]
    ranks = sorted({rank for position in positions for rank in (int(position), min(int(position) + 1, count - 1))})
    ranked = dict(zip(ranks, _select_ranks(train, ranks, columns), strict=True))
    found = []
    for position in positions:
        lower, upper = ranked[int(position)], ranked[min(int(position) + 1, count - 1)]
        found.append(lower + (upper - lower) * (position - int(position)))
    return found


def _select_ranks(train: Outputs, ranks: Sequence[int], columns: int) -> Tensor:
    """Return the numbers of these ranks, counted from 0, in every column: float64 [R, columns]."""
    left = torch.tensor(ranks)[:, None].repeat(1, columns)  # the rank among those that begin as the number does
    prefixes = torch.zeros_like(left)
    fixed = 0
    for digit in _DIGITS:
        counts = _count_digits(train, prefixes, fixed, digit)
        below = counts.cumsum(2)
        found = (below <= left[:, :, None]).sum(2)
        left -= torch.where(found > 0, below.gather(2, (found - 1).clamp(min=0)[:, :, None])[:, :, 0], 0)
        prefixes = prefixes << digit | found
        fixed += digit
    signed = (prefixes - 2**31).int()  # the inverse of `_to_integers`
    return (signed ^ (signed >> 31 & 0x7FFFFFFF)).view(torch.float32).double()


def _count_digits(train: Outputs, prefixes: Tensor, fixed: int, digit: int) -> Tensor:
    """Return how many numbers go on with each digit, among those that begin like this: [R, columns, 2 ** digit]."""
    ranks, columns = prefixes.shape
    counts = torch.zeros(ranks, columns << digit, dtype=torch.int64)
    offsets = torch.arange(columns) << digit
    for part in train.chunks(_ROWS):
        integers = _to_integers(part.embeddings).view(-1, columns)
        prefix = integers >> (32 - fixed)
        bins = offsets + (integers >> (32 - fixed - digit) & (1 << digit) - 1)
        for rank in range(ranks):
            if rank and torch.equal(prefixes[rank], prefixes[rank - 1]):
                continue
            chosen = bins if not fixed else bins[prefix == prefixes[rank]]
            counts[rank] += chosen.flatten().bincount(minlength=columns << digit)
    for rank in range(1, ranks):
        if torch.equal(prefixes[rank], prefixes[rank - 1]):
            counts[rank] = counts[rank - 1]
    return counts.view(ranks, columns, 1 << digit)


def _to_integers(numbers: Tensor) -> Tensor:
    """Return int64 in [0, 2 ** 32) that are ordered like the float32 numbers."""
    if not numbers.isfinite().all():
        raise OODError("training embeddings hold NaN or infinite values")
    bits = numbers.float().contiguous().view(torch.int32)
    return (bits ^ (bits >> 31 & 0x7FFFFFFF)).long() + 2**31
