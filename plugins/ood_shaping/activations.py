"""Steps that look at one embedding alone: ASH in three forms, SCALE and LTS. Nothing is fitted but another scorer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt, Lt

from ood_core.interfaces import Outputs, Scorer, ScorerInfo
from ood_shaping.shaped import fit_shaped, head_of, refuse_unshaped, warn_of_signs
from ood_shaping.shapes import Binarize, Grow, GrowLogits, Prune, ShapedScore, Sharpen

Share = Annotated[float, Gt(0), Lt(1)]

_ASH = "Djurisic, Bozanic, Ashok and Liu, 2023, Extremely simple activation shaping for out-of-distribution detection"


@dataclass(frozen=True, kw_only=True)
class ASHP(Scorer):
    """Energy of embeddings of which only the largest entries are left, ASH-P (Djurisic et al., 2023).

    -log sum exp(W s(f) + b), where s sets the given share of the entries of each row to 0, the smallest first.

    Attributes:
        percentile: Share of the entries that become 0; the authors' code has 0.65 where none is given.
        score: What is asked of the pruned outputs in place of the energy.
    """

    name = "ash-p"
    needs = frozenset({"embeddings", "head"})
    scores = ShapedScore
    info = ScorerInfo(
        paper=_ASH,
        formula="-log Σ exp(W s(f) + b), s(f) = f where it is among the largest, else 0",
        fit="none",
        score="C D",
        notes="percentile is a choice made here, the authors' code has 0.65; OpenOOD has ASH-B alone",
    )

    percentile: Share = 0.6
    score: Scorer | None = None

    def __post_init__(self) -> None:
        refuse_unshaped(self.score)

    def fit(self, train: Outputs) -> ShapedScore:
        """Return the score."""
        shape = Prune(self.percentile, head_of(train))
        return ShapedScore(shape, fit_shaped(self.score, shape, train))


@dataclass(frozen=True, kw_only=True)
class ASHB(Scorer):
    """Energy of embeddings whose largest entries become equal and keep the sum, ASH-B (Djurisic et al., 2023).

    -log sum exp(W s(f) + b), where s gives each of the k largest entries the sum of all entries over k, and the
    others 0.

    Attributes:
        percentile: Share of the entries that become 0; 0.65 in the authors' code where none is given.
        score: What is asked of the binarized outputs in place of the energy.
    """

    name = "ash-b"
    needs = frozenset({"embeddings", "head"})
    scores = ShapedScore
    info = ScorerInfo(
        paper=_ASH,
        formula="-log Σ exp(W s(f) + b), s(f) = Σf / k for the k largest, else 0",
        fit="none",
        score="C D",
        notes=(
            "percentile is that of the authors' code where none is given; OpenOOD has 0.9, then the best of 0.65 to "
            "0.95 on validation OOD images"
        ),
    )

    percentile: Share = 0.65
    score: Scorer | None = None

    def __post_init__(self) -> None:
        refuse_unshaped(self.score)

    def fit(self, train: Outputs) -> ShapedScore:
        """Return the score."""
        warn_of_signs(train, self.name)
        shape = Binarize(self.percentile, head_of(train))
        return ShapedScore(shape, fit_shaped(self.score, shape, train))


@dataclass(frozen=True, kw_only=True)
class ASHS(Scorer):
    """Energy of embeddings of which the largest entries are left and grow, ASH-S (Djurisic et al., 2023).

    -log sum exp(W s(f) + b), where s multiplies the k largest entries by exp(r) and sets the others to 0; r is the
    sum of all entries over that of the k largest.

    Attributes:
        percentile: Share of the entries that become 0; in the authors' code 0.9 for ImageNet, 0.95 for CIFAR.
        score: What is asked of the sharpened outputs in place of the energy.
    """

    name = "ash-s"
    needs = frozenset({"embeddings", "head"})
    scores = ShapedScore
    info = ScorerInfo(
        paper=_ASH,
        formula="-log Σ exp(W s(f) + b), s(f) = f exp(Σf / Σ largest) where it is among the largest, else 0",
        fit="none",
        score="C D",
        notes="percentile is the authors' for ResNet-50 on ImageNet, who have 0.95 for CIFAR; OpenOOD has ASH-B alone",
    )

    percentile: Share = 0.9
    score: Scorer | None = None

    def __post_init__(self) -> None:
        refuse_unshaped(self.score)

    def fit(self, train: Outputs) -> ShapedScore:
        """Return the score."""
        warn_of_signs(train, self.name)
        shape = Sharpen(self.percentile, head_of(train))
        return ShapedScore(shape, fit_shaped(self.score, shape, train))


@dataclass(frozen=True, kw_only=True)
class Scale(Scorer):
    """Energy of embeddings that grow with the mass outside of their largest entries, SCALE (Xu et al., 2024).

    -log sum exp(exp(r) W f + b), where r is the sum of all entries over that of the largest; nothing is set to 0.

    Attributes:
        percentile: Share of the entries that do not count as the largest; 0.85 in the authors' code.
        score: What is asked of the scaled outputs in place of the energy.
    """

    name = "scale"
    needs = frozenset({"embeddings", "head"})
    scores = ShapedScore
    info = ScorerInfo(
        paper="Xu, Chen, Franchi and Yao, 2024, Scaling for training time and post-hoc out-of-distribution detection "
        "enhancement",
        formula="-log Σ exp(exp(r) W f + b), r = Σf / Σ largest",
        fit="none",
        score="C D",
        notes="percentile is the authors'; OpenOOD then takes the best of 0.65 to 0.95 on validation OOD images",
    )

    percentile: Share = 0.85
    score: Scorer | None = None

    def __post_init__(self) -> None:
        refuse_unshaped(self.score)

    def fit(self, train: Outputs) -> ShapedScore:
        """Return the score."""
        warn_of_signs(train, self.name)
        shape = Grow(self.percentile, head_of(train))
        return ShapedScore(shape, fit_shaped(self.score, shape, train))


@dataclass(frozen=True, kw_only=True)
class LTS(Scorer):
    """Energy of logits that grow with the mass outside of the largest entries of the embedding (Djurisic et al., 2024).

    -log sum exp(r² z), where r is the sum of all positive entries over that of the largest ones. Negative entries count
    as 0 in r, as in the published code, and stay as they are in z = W f + b.

    Attributes:
        percentile: Share of the entries that do not count as the largest; 0.95 in the authors' code.
        score: What is asked of the scaled logits in place of the energy; the embeddings it sees are not changed.
    """

    name = "lts"
    needs = frozenset({"embeddings", "head"})
    scores = ShapedScore
    info = ScorerInfo(
        paper="Djurisic, Liu and Nikolic, 2024, Logit scaling for out-of-distribution detection",
        formula="-log Σ exp(r² z), r = Σ max(f, 0) / Σ largest",
        fit="none",
        score="C D",
    )

    percentile: Share = 0.95
    score: Scorer | None = None

    def __post_init__(self) -> None:
        refuse_unshaped(self.score)

    def fit(self, train: Outputs) -> ShapedScore:
        """Return the score."""
        shape = GrowLogits(self.percentile, head_of(train))
        return ShapedScore(shape, fit_shaped(self.score, shape, train))
