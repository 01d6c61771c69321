"""Steps that are fitted to the training outputs: ReAct, VRA and DICE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Gt, Lt
from torch import Tensor

from ood_core.interfaces import Head, Outputs, ScorerInfo, ShapedScore, ShapedScorer
from ood_shaping.quantiles import neuron_quantiles, overall_quantiles

Share = Annotated[float, Gt(0), Lt(1)]


@dataclass(frozen=True, kw_only=True)
class Clip(ShapedScore):
    """Entries above the limit become the limit."""

    limit: float

    def shape_embeddings(self, embeddings: Tensor) -> Tensor:
        return embeddings.clamp(max=self.limit)


@dataclass(frozen=True, kw_only=True)
class ReAct(ShapedScorer):
    """Energy of embeddings that are clipped from above (Sun et al., 2021).

    c is a quantile over all entries of all training embeddings, found exactly.

    Attributes:
        quantile: Which one c is; 0.9 in the paper.
    """

    name = "react"
    scores = Clip
    info = ScorerInfo(
        paper="Sun, Guo and Li, 2021, ReAct: Out-of-distribution detection with rectified activations",
        formula="-log Σ exp(W min(f, c) + b)",
        fit="3 N D",
        score="C D",
        notes="quantile is the paper's; here of training embeddings, in the authors' code and OpenOOD of ID "
        "validation images; OpenOOD then takes the best of 0.85 to 0.99 on validation OOD images",
    )

    quantile: Share = 0.9

    def fit_shape(self, train: Outputs, head: Head) -> Clip:
        return Clip(head=head, limit=overall_quantiles(train, [self.quantile])[0])


@dataclass(frozen=True, kw_only=True)
class Band(ShapedScore):
    """Entries below the band [D] become 0, those above it its upper end."""

    lower: Tensor
    upper: Tensor

    def shape_embeddings(self, embeddings: Tensor) -> Tensor:
        return torch.minimum(torch.where(embeddings < self.lower, 0, embeddings), self.upper)


@dataclass(frozen=True, kw_only=True)
class VRA(ShapedScorer):
    """Energy of embeddings without their low entries and with clipped high ones, VRA-P (Xu et al., 2023).

    Each entry has its own α and β, quantiles of the training embeddings, as in the published code.

    Attributes:
        lower: Quantile of α; 0.6 in the published CIFAR runs.
        upper: Quantile of β; 0.95 in those of CIFAR-100 and 0.9 in those of CIFAR-10.
    """

    name = "vra"
    scores = Band
    info = ScorerInfo(
        paper="Xu, Lian, Liu and Tao, 2023, VRA: Variational rectified activation for out-of-distribution detection",
        formula="-log Σ exp(W g(f) + b), g(f) = 0 below α, min(f, β) above",
        fit="3 N D",
        score="C D",
        notes="quantiles of each entry, those of the authors for CIFAR-100, there with ODIN's score; OpenOOD has "
        "lower 0.1 and upper 0.9 over all entries of ID validation images, raises low entries to α, and then takes "
        "the best of lower 0.01 to 0.15 and upper 0.85 to 0.99 on validation OOD images",
    )

    lower: Share = 0.6
    upper: Share = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lower >= self.upper:
            raise ValueError(f"lower must be below upper, not {self.lower} and {self.upper}")

    def fit_shape(self, train: Outputs, head: Head) -> Band:
        lower, upper = neuron_quantiles(train, [self.lower, self.upper])
        return Band(head=head, lower=lower, upper=upper)


@dataclass(frozen=True, kw_only=True)
class SparseHead(ShapedScore):
    """A head most of whose weights are 0, with the contribution that the others exceed; embeddings are unchanged."""

    threshold: float


@dataclass(frozen=True, kw_only=True)
class DICE(ShapedScorer):
    """Energy under the few weights of the head that contribute most on training images (Sun and Li, 2022).

    ReAct on top of it, as in the paper: `score: {use: react}`.

    Attributes:
        sparsity: Share of the weights that become 0; 0.9 in the authors' code for CIFAR, 0.7 for ImageNet.
    """

    name = "dice"
    scores = SparseHead
    info = ScorerInfo(
        paper="Sun and Li, 2022, DICE: Leveraging sparsification for out-of-distribution detection",
        formula="-log Σ exp((M ⊙ W) f + b), M = [W ⊙ mean f > its quantile]",
        fit="N D + C D",
        score="C D",
        notes="sparsity is the authors' for CIFAR, and OpenOOD's; the authors have 0.7 for ImageNet",
    )

    sparsity: Share = 0.9

    def fit_shape(self, train: Outputs, head: Head) -> SparseHead:
        mean = torch.stack([part.embeddings.double().sum(0) for part in train.chunks()]).sum(0) / len(train)
        contributions = head.weight.double() * mean
        threshold = float(np.quantile(contributions.numpy(), self.sparsity))
        sparse = Head(torch.where(contributions > threshold, head.weight, 0), head.bias)
        return SparseHead(head=sparse, threshold=threshold)
