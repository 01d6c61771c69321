"""Passes over the logits z [N, C] in blocks of rows that stay in the processor's cache.

What is stored is float32, and most of the arithmetic is done in it: a sum of positive numbers, or a difference from the
largest logit, loses no more than was lost in storing. Where more would be lost, the rows in question are done again in
float64. Results are float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ood_core.interfaces import Outputs

Summary: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""One number a row of q [B, C], the distribution among the other classes (0 at the top), and the logits [B, C]."""

_CELLS = 1 << 18  # of a block: a few arrays of 1 MB
_DOUBTFUL = 1e-25  # of a probability: smaller ones are next to what float32 can hold
_NO_RIVAL = -1e30  # log-odds where there is one class alone: finite, so that its score is


@dataclass(frozen=True)
class SoftmaxParts:
    """The most probable class against all others, float64 [N] each."""

    log_top: Tensor  # log p_max
    log_rest: Tensor  # log(1 - p_max), without cancellation and, where p_max rounds to 1, without ties
    summary: Tensor  # of the distribution among the others; default: 0


def softmax_parts(logits: Tensor, temperature: float = 1.0, summary: Summary | None = None) -> SoftmaxParts:
    """Return the softmax probabilities of each row, split into the largest one and all others.

    Against float64 throughout, the logarithms differ by less than 1e-6 of their size.
    """
    if torch.compiler.is_compiling():  # a graph cannot do some rows again: all are done in float64
        return SoftmaxParts(*_exact(logits.double() / temperature, summary))
    count = logits.shape[1]
    # differences from the largest logit keep all their digits in the division
    scaled = (
        block if temperature == 1 else (block - block.amax(1, keepdim=True)).div_(temperature)
        for block in blocks(logits)
    )
    parts = [_quick(block, summary) for block in scaled]
    top, rest, others, extra = (torch.cat(column).double() for column in zip(*parts, strict=True))
    # float32 probabilities do not quite sum to 1.
    top, rest = top / (top + rest), rest / (top + rest)
    log_top, log_rest = torch.where(top > 0.5, torch.log1p(-rest), top.log()), rest.log()
    doubtful = ((others != count - 1) | ~(rest > _DOUBTFUL)).nonzero()[:, 0]
    for rows in torch.split(doubtful, max(1, _CELLS // count)):
        log_top[rows], log_rest[rows], extra[rows] = _exact(logits[rows].double() / temperature, summary)
    return SoftmaxParts(log_top, log_rest, extra)


def blocks(logits: Tensor) -> Iterator[Tensor]:
    """Yield consecutive blocks of rows, float32, or float64 where the logits are; for a graph, all rows at once."""
    size = max(1, _CELLS // max(1, logits.shape[1]))
    for block in (logits,) if torch.compiler.is_compiling() else torch.split(logits, size):
        yield block if block.dtype == torch.float64 else block.float()


def labelled_blocks(outputs: Outputs) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield blocks of logits [B, C] with their labels [B]."""
    for part in outputs.chunks():
        start = 0
        for block in blocks(part.logits):
            yield block, part.labels[start : start + len(block)]
            start += len(block)


def _quick(block: Tensor, summary: Summary | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return p_max, 1 - p_max, how many classes are less probable, and the summary, [B] each."""
    probabilities = block.softmax(1)
    top = probabilities.amax(1, keepdim=True)
    others = torch.lt(probabilities, top, out=torch.empty_like(probabilities))
    rest = probabilities.mul_(others).sum(1)
    extra = torch.zeros_like(rest) if summary is None else summary(probabilities.div_(rest[:, None]), block)
    return top[:, 0], rest, others.sum(1), extra


def _exact(block: Tensor, summary: Summary | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return log p_max, log(1 - p_max) and the summary in float64, for rows with ties and saturated ones, [B] each."""
    top, index = block.max(1, keepdim=True)
    others = block.scatter(1, index, -torch.inf)
    odds = (others.logsumexp(1) - top[:, 0]).clamp(min=_NO_RIVAL)
    extra = torch.zeros_like(odds) if summary is None else summary(others.softmax(1).nan_to_num(0.0), block)
    return _log_sigmoid(-odds), _log_sigmoid(odds), extra


def _log_sigmoid(odds: Tensor) -> Tensor:
    if torch.compiler.is_compiling():  # ONNX takes the logarithm of a sigmoid that may have become 0
        return odds.clamp(max=0) - odds.abs().neg().exp().log1p()
    return logsigmoid(odds)
