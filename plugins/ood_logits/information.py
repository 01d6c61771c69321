"""Entropies of the softmax probabilities; nothing is fitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Gt, Lt
from torch import Tensor

from ood_core.interfaces import FormulaScorer, Outputs, PositiveInt, ScorerInfo
from ood_logits.rows import blocks, softmax_parts


@dataclass(frozen=True, kw_only=True)
class Entropy(FormulaScorer):
    """Shannon entropy of the softmax probabilities (used for OOD detection by Macedo et al., 2022).

    It keeps its precision where p_max rounds to 1.
    """

    name = "entropy"
    needs = frozenset({"logits"})
    info = ScorerInfo(
        paper="Macedo et al., 2022, Entropic out-of-distribution detection",
        formula="−Σ_j p_j log p_j",
        score="C",
    )

    def score(self, outputs: Outputs) -> Tensor:
        # how far the other classes' logits are below the largest, on average over q
        parts = softmax_parts(outputs.logits, summary=lambda q, z: (z.amax(1, keepdim=True) - z).mul_(q).sum(1))
        # the sum of p_j (-log p_max + z_max - z_j), of positive terms
        return parts.log_rest.exp() * parts.summary - parts.log_top


@dataclass(frozen=True, kw_only=True)
class Gen(FormulaScorer):
    """Generalized entropy of the most probable classes (Liu et al., 2023).

    Attributes:
        gamma: Exponent; 0.1 in the authors' code.
        top: M; 100 in the authors' code, for ImageNet with 1000 classes. With fewer classes all of them count.
    """

    name = "gen"
    needs = frozenset({"logits"})
    info = ScorerInfo(
        paper="Liu et al., 2023, GEN: Pushing the limits of softmax-based out-of-distribution detection",
        formula="Σ_{j ≤ M} p₍ⱼ₎^γ (1 − p₍ⱼ₎)^γ",
        score="C",
        notes="OpenOOD then takes the best of gamma 0.01 to 10 and top 10 to 1000 on validation OOD images",
    )

    gamma: Annotated[float, Gt(0), Lt(1)] = 0.1
    top: PositiveInt = 100

    def score(self, outputs: Outputs) -> Tensor:
        softmax, parts, start = softmax_parts(outputs.logits), [], 0
        for block in blocks(outputs.logits):
            rows = slice(start, start + block.shape[0])
            parts.append(self._sum(block, softmax.log_top[rows, None], softmax.log_rest[rows, None]))
            start = rows.stop
        return torch.cat(parts)

    def _sum(self, block: Tensor, log_top: Tensor, log_rest: Tensor) -> Tensor:
        """Work in logarithms: with so small a gamma, probabilities count that float32 cannot hold."""
        gaps = _largest(block, self.top) - block.amax(1, keepdim=True)
        log_p = gaps + log_top.to(gaps)
        # At the top, 1 - p has to come from the others; everywhere else p is at most 1/2.
        log_rest = torch.where(gaps == 0, log_rest.to(gaps), torch.log1p(-log_p.exp().clamp(max=0.5)))
        return (self.gamma * (log_p + log_rest)).exp().double().sum(1)


def _largest(block: Tensor, count: int) -> Tensor:
    """Return the largest logits of each row in no order; numpy selects several times faster than torch.topk."""
    if count >= block.shape[1]:
        return block
    if torch.compiler.is_compiling():  # which holds no numpy
        return block.topk(count, 1).values
    return torch.from_numpy(np.partition(block.cpu().numpy(), -count, axis=1)[:, -count:]).to(block.device)
