"""Steps that read one embedding alone: ASH in three forms, SCALE and LTS. Nothing is fitted but another scorer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ood_core.interfaces import ScorerInfo, ShapedScorer
from ood_shaping.scorers import Share

_ASH = "Djurisic, Bozanic, Ashok and Liu, 2023, Extremely simple activation shaping for out-of-distribution detection"
_MOST = 300.0  # exp of more than twice this leaves float64


@dataclass(frozen=True, kw_only=True)
class ASHP(ShapedScorer):
    """Energy of embeddings of which only the largest entries are left, ASH-P (Djurisic et al., 2023).

    Attributes:
        percentile: Share of the entries that become 0; the authors' code has 0.65 where none is given.
    """

    name = "ash-p"
    info = ScorerInfo(
        paper=_ASH,
        formula="-log Σ exp(W s(f) + b), s(f) = f where it is among the largest, else 0",
        score="C D",
        notes="percentile is a choice made here, the authors' code has 0.65; OpenOOD has ASH-B alone",
    )

    percentile: Share = 0.6

    def shape_embeddings(self, embeddings: Tensor) -> Tensor:
        values, where = largest(embeddings, self.percentile)
        return torch.zeros_like(embeddings).scatter(1, where, values)


@dataclass(frozen=True, kw_only=True)
class ASHB(ShapedScorer):
    """Energy of embeddings whose largest entries become equal and keep the sum, ASH-B (Djurisic et al., 2023).

    Attributes:
        percentile: Share of the entries that become 0; 0.65 in the authors' code where none is given.
    """

    name = "ash-b"
    after_relu = True
    info = ScorerInfo(
        paper=_ASH,
        formula="-log Σ exp(W s(f) + b), s(f) = Σf / k for the k largest, else 0",
        score="C D",
        notes="percentile is that of the authors' code where none is given; OpenOOD has 0.9, then the best of 0.65 "
        "to 0.95 on validation OOD images",
    )

    percentile: Share = 0.65

    def shape_embeddings(self, embeddings: Tensor) -> Tensor:
        _, where = largest(embeddings, self.percentile)
        shares = embeddings.sum(1, keepdim=True) / where.shape[1]
        return torch.zeros_like(embeddings).scatter(1, where, shares.expand(where.shape))


@dataclass(frozen=True, kw_only=True)
class ASHS(ShapedScorer):
    """Energy of embeddings of which the largest entries are left and grow, ASH-S (Djurisic et al., 2023).

    Attributes:
        percentile: Share of the entries that become 0; in the authors' code 0.9 for ImageNet, 0.95 for CIFAR.
    """

    name = "ash-s"
    after_relu = True
    info = ScorerInfo(
        paper=_ASH,
        formula="-log Σ exp(W s(f) + b), s(f) = f exp(Σf / Σ largest) where it is among the largest, else 0",
        score="C D",
        notes="percentile is the authors' for ResNet-50 on ImageNet, who have 0.95 for CIFAR; OpenOOD has ASH-B alone",
    )

    percentile: Share = 0.9

    def shape_embeddings(self, embeddings: Tensor) -> Tensor:
        values, where = largest(embeddings, self.percentile)
        return torch.zeros_like(embeddings).scatter(1, where, values * growth(embeddings, values))


@dataclass(frozen=True, kw_only=True)
class Scale(ShapedScorer):
    """Energy of embeddings that grow with the mass outside of their largest entries, SCALE (Xu et al., 2024).

    Attributes:
        percentile: Share of the entries that do not count as the largest; 0.85 in the authors' code.
    """

    name = "scale"
    after_relu = True
    info = ScorerInfo(
        paper="Xu, Chen, Franchi and Yao, 2024, Scaling for training time and post-hoc out-of-distribution detection "
        "enhancement",
        formula="-log Σ exp(exp(r) W f + b), r = Σf / Σ largest",
        score="C D",
        notes="percentile is the authors'; OpenOOD then takes the best of 0.65 to 0.95 on validation OOD images",
    )

    percentile: Share = 0.85

    def shape_embeddings(self, embeddings: Tensor) -> Tensor:
        values, _ = largest(embeddings, self.percentile)
        return embeddings * growth(embeddings, values)


@dataclass(frozen=True, kw_only=True)
class LTS(ShapedScorer):
    """Energy of logits that grow with the mass outside of the largest entries of the embedding (Djurisic et al., 2024).

    Negative entries count as 0 in r, as in the published code, and stay as they are in z.

    Attributes:
        percentile: Share of the entries that do not count as the largest; 0.95 in the authors' code.
    """

    name = "lts"
    info = ScorerInfo(
        paper="Djurisic, Liu and Nikolic, 2024, Logit scaling for out-of-distribution detection",
        formula="-log Σ exp(r² z), r = Σ max(f, 0) / Σ largest",
        score="C D",
    )

    percentile: Share = 0.95

    def shape_logits(self, logits: Tensor, embeddings: Tensor) -> Tensor:
        positive = embeddings.relu()
        top = largest(positive, self.percentile)[0].sum(1, keepdim=True)
        # a row without a positive entry has no ratio; it is left as it is
        ratio = torch.where(top > 0, positive.sum(1, keepdim=True) / top, 1)
        return logits * ratio.square()


def largest(embeddings: Tensor, percentile: float) -> tuple[Tensor, Tensor]:
    """Return values and places of the entries of each row that a percentile leaves, at least one, [N, k] each."""
    width = embeddings.shape[1]
    return embeddings.topk(max(width - round(width * percentile), 1), 1)


def growth(embeddings: Tensor, values: Tensor) -> Tensor:
    """Return exp(sum of all / sum of the largest), [N, 1].

    With entries of both signs the largest may sum up to 0 or less. The ratio falls without a bound on the way there,
    and the factor to 0; it stays there.
    """
    whole, top = embeddings.sum(1, keepdim=True), values.sum(1, keepdim=True)
    return torch.where(top > 0, whole / top, -torch.inf).clamp(max=_MOST).exp()
