"""The weighted mean of several scores, after each is put on a common scale.

The scale comes from the scores of held-out ID images: on training images many scorers are far too sure of themselves.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ood_core.interfaces import Outputs, PositiveFloat, Score, Scorer, ScorerInfo
from ood_core.interfaces.checks import check_scores

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ranks:
    """Maps scores to the share of held-out ID scores that are lower, linear between those.

    Beyond the largest it grows by 1/N times the log of 1 + the excess in standard deviations: less and less, but
    without an end, so that what is far away is still in order. Below the smallest it falls likewise.
    """

    values: Tensor  # the different held-out scores, ascending, [K]
    shares: Tensor  # [K]; of equal ones, half count as lower
    spread: float  # their standard deviation
    step: float  # 1/N

    @classmethod
    def of(cls, scores: Tensor) -> Ranks:
        """Return the map for these held-out scores [N]."""
        values, counts = torch.unique_consecutive(scores.sort().values, return_counts=True)
        shares = (counts.cumsum(0) - counts / 2) / len(scores)
        return cls(values, shares, _spread(scores), 1 / len(scores))

    def __call__(self, scores: Tensor) -> Tensor:
        """Return ranks [N] of scores [N]; in (0, 1) between the smallest and the largest held-out score."""
        last = len(self.values) - 1
        above = torch.searchsorted(self.values, scores).clamp(min(1, last), last)
        below = (above - 1).clamp(min=0)
        gaps = (self.values[above] - self.values[below]).clamp(min=torch.finfo(torch.float64).tiny)
        part = ((scores - self.values[below]) / gaps).clamp(0, 1)
        inside = self.shares[below] + part * (self.shares[above] - self.shares[below])
        excess = (scores - self.values[-1]).clamp(min=0) / self.spread
        deficit = (self.values[0] - scores).clamp(min=0) / self.spread
        return inside + self.step * (excess.log1p() - deficit.log1p())


@dataclass(frozen=True)
class ZScores:
    """Maps scores to standard deviations from the mean, both of held-out ID scores."""

    mean: float
    spread: float

    def __call__(self, scores: Tensor) -> Tensor:
        return (scores - self.mean) / self.spread


@dataclass(frozen=True)
class WeightedMean(Score):
    """Weighted mean of several scores on their scales."""

    inner: tuple[Score, ...]  # the scores
    scales: tuple[Ranks | ZScores, ...]  # one for each
    weights: Tensor  # [K], of sum 1

    def __call__(self, outputs: Outputs) -> Tensor:
        pairs = zip(self.scales, self.inner, strict=True)
        return self.weights @ torch.stack([scale(score(outputs)) for scale, score in pairs])


@dataclass(frozen=True, kw_only=True)
class Fusion(Scorer):
    """Weighted mean of scores on scales that are fitted to held-out ID images.

    Attributes:
        scorers: The scorers to combine.
        weights: One for each of them; none are equal weights. Only their ratios matter.
    """

    needs = frozenset({"held_out"})
    scores = WeightedMean

    scorers: tuple[Scorer, ...]
    weights: tuple[PositiveFloat, ...] = ()

    def __post_init__(self) -> None:
        if not self.scorers:
            raise ValueError("scorers must name at least one")
        if self.weights and len(self.weights) != len(self.scorers):
            count = len(self.scorers)
            raise ValueError(f"there must be as many weights as scorers, {count}, not {len(self.weights)}")
        for scorer in self.scorers:
            if "network" in scorer.all_needs():
                raise ValueError(
                    f"scorer '{scorer.name}' needs the network, and cannot score held-out images in fitting"
                )

    @abstractmethod
    def fit_scales(self, scores: Tensor) -> Sequence[Ranks | ZScores]:
        """Return a scale for each row of held-out scores [K, N]."""

    def fit(self, train: Outputs) -> WeightedMean:
        assert train.held_out is not None
        inner = tuple(scorer.fit(train) for scorer in self.scorers)
        chunks = train.held_out.without_labels().chunks()
        scores = torch.cat([torch.stack(_checked(self.scorers, inner, chunk)) for chunk in chunks], 1)
        weights = torch.tensor(self.weights or [1.0] * len(inner), dtype=torch.float64)
        return WeightedMean(inner, tuple(self.fit_scales(scores)), weights / weights.sum())


def _checked(scorers: Sequence[Scorer], inner: Sequence[Score], outputs: Outputs) -> list[Tensor]:
    pairs = zip(scorers, inner, strict=True)
    return [check_scores(scorer.name, score(outputs), len(outputs)) for scorer, score in pairs]


@dataclass(frozen=True, kw_only=True)
class RankFusion(Fusion):
    """Weighted mean of ranks among held-out ID images, whatever the scale of the scores."""

    name = "rank-fusion"
    info = ScorerInfo(
        paper="the empirical distribution function, or conformal p-value, of each score; no one paper",
        formula="Σ w F(s), F the share of held-out ID scores below s",
        fit="that of the scorers",
        score="that of the scorers + log N",
    )

    def fit_scales(self, scores: Tensor) -> Sequence[Ranks]:
        return [Ranks.of(row) for row in scores]


@dataclass(frozen=True, kw_only=True)
class ZScoreFusion(Fusion):
    """Weighted mean of scores in standard deviations from their mean over held-out ID images."""

    name = "z-score-fusion"
    info = ScorerInfo(
        paper="standardisation of each score; no one paper",
        formula="Σ w (s - mean) / std, both over held-out ID scores",
        fit="that of the scorers",
        score="that of the scorers",
    )

    def fit_scales(self, scores: Tensor) -> Sequence[ZScores]:
        return [ZScores(mean, _spread(row)) for mean, row in zip(scores.mean(1).tolist(), scores, strict=True)]


def _spread(scores: Tensor) -> float:
    found = scores.std(correction=0).item()
    if not found:
        _LOG.warning("a scorer gives all held-out ID images the same score; its scale is left as it is")
    return found or 1.0
