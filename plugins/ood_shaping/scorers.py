"""Steps that take something from the training outputs: ReAct, VRA and DICE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Gt, Lt

from ood_core.interfaces import Head, Outputs, Scorer, ScorerInfo
from ood_shaping.quantiles import neuron_quantiles, overall_quantiles
from ood_shaping.shaped import fit_shaped, head_of, refuse_unshaped
from ood_shaping.shapes import Band, Clip, ShapedScore, Sparse

Share = Annotated[float, Gt(0), Lt(1)]


@dataclass(frozen=True, kw_only=True)
class ReAct(Scorer):
    """Energy of embeddings that are clipped from above (Sun et al., 2021).

    -log sum exp(W min(f, c) + b), with c a quantile over all entries of all training embeddings, found exactly.

    Attributes:
        quantile: Which one c is; 0.9 in the paper.
        score: What is asked of the clipped outputs in place of the energy.
    """

    name = "react"
    needs = frozenset({"embeddings", "head"})
    scores = ShapedScore
    info = ScorerInfo(
        paper="Sun, Guo and Li, 2021, ReAct: Out-of-distribution detection with rectified activations",
        formula="-log Σ exp(W min(f, c) + b)",
        fit="3 N D",
        score="C D",
        notes=(
            "quantile is the paper's; here of training embeddings, in the authors' code and OpenOOD of ID validation "
            "images; OpenOOD then takes the best of 0.85 to 0.99 on validation OOD images"
        ),
    )

    quantile: Share = 0.9
    score: Scorer | None = None

    def __post_init__(self) -> None:
        refuse_unshaped(self.score)

    def fit(self, train: Outputs) -> ShapedScore:
        """Return the score.

        Raises:
            OODError: Embeddings are not finite.
        """
        head = head_of(train)
        shape = Clip(overall_quantiles(train, [self.quantile])[0], head)
        return ShapedScore(shape, fit_shaped(self.score, shape, train))


@dataclass(frozen=True, kw_only=True)
class VRA(Scorer):
    """Energy of embeddings without their low entries and with clipped high ones, VRA-P (Xu et al., 2023).

    -log sum exp(W g(f) + b), where g(f) is 0 below α, f between α and β, and β above. Each entry of the embedding has
    its own α and β, quantiles of the training embeddings, as in the published code. OpenOOD and pytorch-ood raise low
    entries to α instead.

    Attributes:
        lower: Quantile of α; 0.6 in the published CIFAR runs.
        upper: Quantile of β; 0.95 in those of CIFAR-100 and 0.9 in those of CIFAR-10.
        score: What is asked of the rectified outputs in place of the energy.
    """

    name = "vra"
    needs = frozenset({"embeddings", "head"})
    scores = ShapedScore
    info = ScorerInfo(
        paper="Xu, Lian, Liu and Tao, 2023, VRA: Variational rectified activation for out-of-distribution detection",
        formula="-log Σ exp(W g(f) + b), g(f) = 0 below α, min(f, β) above",
        fit="3 N D",
        score="C D",
        notes=(
            "quantiles of each entry, those of the authors for CIFAR-100, there with ODIN's score; OpenOOD has lower "
            "0.1 and upper 0.9 over all entries of ID validation images, raises low entries to α, and then takes the "
            "best of lower 0.01 to 0.15 and upper 0.85 to 0.99 on validation OOD images"
        ),
    )

    lower: Share = 0.6
    upper: Share = 0.95
    score: Scorer | None = None

    def __post_init__(self) -> None:
        refuse_unshaped(self.score)
        if self.lower >= self.upper:
            raise ValueError(f"lower must be below upper, not {self.lower} and {self.upper}")

    def fit(self, train: Outputs) -> ShapedScore:
        """Return the score.

        Raises:
            OODError: Embeddings are not finite.
        """
        head = head_of(train)
        lower, upper = neuron_quantiles(train, [self.lower, self.upper])
        shape = Band(lower, upper, head)
        return ShapedScore(shape, fit_shaped(self.score, shape, train))


@dataclass(frozen=True, kw_only=True)
class DICE(Scorer):
    """Energy under the few weights of the head that contribute most on training images (Sun and Li, 2022).

    -log sum exp((M W) f + b), where the mask M is 1 for the weights whose contribution, W times the mean training
    embedding, exceeds a quantile of all contributions. ReAct on top of it, as there: `score: {use: react}`.

    Attributes:
        sparsity: Share of the weights that become 0; 0.9 in the authors' code for CIFAR, 0.7 for ImageNet.
        score: What is asked of the outputs under the sparse head in place of the energy.
    """

    name = "dice"
    needs = frozenset({"embeddings", "head"})
    scores = ShapedScore
    info = ScorerInfo(
        paper="Sun and Li, 2022, DICE: Leveraging sparsification for out-of-distribution detection",
        formula="-log Σ exp((M ⊙ W) f + b), M = [W ⊙ mean f > its quantile]",
        fit="N D + C D",
        score="C D",
        notes="sparsity is the authors' for CIFAR, and OpenOOD's; the authors have 0.7 for ImageNet",
    )

    sparsity: Share = 0.9
    score: Scorer | None = None

    def __post_init__(self) -> None:
        refuse_unshaped(self.score)

    def fit(self, train: Outputs) -> ShapedScore:
        """Return the score."""
        head = head_of(train)
        mean = torch.stack([part.embeddings.double().sum(0) for part in train.chunks()]).sum(0) / len(train)
        contributions = head.weight.double() * mean
        threshold = float(np.quantile(contributions.numpy(), self.sparsity))
        sparse = Head(torch.where(contributions > threshold, head.weight, 0), head.bias)
        shape = Sparse(threshold, sparse)
        return ShapedScore(shape, fit_shaped(self.score, shape, train))
