"""The weighted mean of what several scorers say, after each is put on a common scale.

The scale comes from the scores of held-out ID images: on training images many scorers are far too sure of themselves.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ood_core.interfaces import Outputs, PositiveFloat, Score, Scorer, ScorerInfo

_LOG = logging.getLogger(__name__)
_NEEDS = frozenset({"held_out"})


@dataclass(frozen=True)
class Ranks:
    """Maps scores to the share of held-out ID scores that are lower, linear between those.

    Beyond the largest it grows by 1/N times the log of 1 + the excess in standard deviations: less and less, but
    without an end, so that what is far away is still in order. Below the smallest it falls likewise.

    Attributes:
        values: The different held-out scores, ascending, [K].
        shares: [K]; of equal ones, half count as lower.
        spread: Their standard deviation.
        step: 1/N.
    """

    values: Tensor
    shares: Tensor
    spread: float
    step: float

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
class MeanRank(Score):
    """Weighted mean of the ranks of several scores.

    Attributes:
        inner: The scores.
        ranks: The scale of each.
        weights: [K], of sum 1.
    """

    inner: tuple[Score, ...]
    ranks: tuple[Ranks, ...]
    weights: Tensor

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the score [N]."""
        pairs = zip(self.ranks, self.inner, strict=True)
        return self.weights @ torch.stack([ranks(score(outputs)) for ranks, score in pairs])


@dataclass(frozen=True, kw_only=True)
class RankFusion(Scorer):
    """Weighted mean of ranks among held-out ID images, whatever the scale of the scores.

    Attributes:
        scorers: Those that are asked.
        weights: One for each of them; none are equal weights. Only their ratios matter.
    """

    name = "rank-fusion"
    needs = _NEEDS
    scores = MeanRank
    info = ScorerInfo(
        paper="the empirical distribution function, or conformal p-value, of each score; no one paper",
        formula="Σ w F(s), F the share of held-out ID scores below s",
        fit="that of the scorers",
        score="that of the scorers + log N",
    )

    scorers: tuple[Scorer, ...]
    weights: tuple[PositiveFloat, ...] = ()

    def __post_init__(self) -> None:
        _refuse(self.scorers, self.weights)

    def fit(self, train: Outputs) -> MeanRank:
        """Return the score."""
        inner = tuple(scorer.fit(train) for scorer in self.scorers)
        ranks = tuple(Ranks.of(scores) for scores in _of_held_out(inner, train))
        return MeanRank(inner, ranks, _shares(self.weights, len(inner)))


@dataclass(frozen=True)
class MeanDeviation(Score):
    """Weighted mean of how many standard deviations several scores lie above their mean.

    Attributes:
        inner: The scores.
        means: [K], over held-out ID images.
        spreads: [K], standard deviations.
        weights: [K], of sum 1.
    """

    inner: tuple[Score, ...]
    means: Tensor
    spreads: Tensor
    weights: Tensor

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the score [N]."""
        scores = torch.stack([score(outputs) for score in self.inner])
        return self.weights @ ((scores - self.means[:, None]) / self.spreads[:, None])


@dataclass(frozen=True, kw_only=True)
class ZScoreFusion(Scorer):
    """Weighted mean of scores in standard deviations from their mean over held-out ID images.

    Attributes:
        scorers: Those that are asked.
        weights: One for each of them; none are equal weights. Only their ratios matter.
    """

    name = "z-score-fusion"
    needs = _NEEDS
    scores = MeanDeviation
    info = ScorerInfo(
        paper="standardisation of each score; no one paper",
        formula="Σ w (s - mean) / std, both over held-out ID scores",
        fit="that of the scorers",
        score="that of the scorers",
    )

    scorers: tuple[Scorer, ...]
    weights: tuple[PositiveFloat, ...] = ()

    def __post_init__(self) -> None:
        _refuse(self.scorers, self.weights)

    def fit(self, train: Outputs) -> MeanDeviation:
        """Return the score."""
        inner = tuple(scorer.fit(train) for scorer in self.scorers)
        scores = _of_held_out(inner, train)
        spreads = torch.tensor([_spread(row) for row in scores], dtype=torch.float64)
        return MeanDeviation(inner, scores.mean(1), spreads, _shares(self.weights, len(inner)))


def _of_held_out(inner: Sequence[Score], train: Outputs) -> Tensor:
    """Return the scores of the held-out images, [K, N]."""
    assert train.held_out is not None
    images = train.held_out.without_labels()
    parts = [torch.stack([score(part) for score in inner]) for part in images.chunks()]
    return torch.cat(parts, 1)


def _spread(scores: Tensor) -> float:
    found = scores.std(correction=0).item()
    if not found:
        _LOG.warning("a scorer gives all held-out ID images the same score; its scale is left as it is")
    return found or 1.0


def _shares(weights: Sequence[float], count: int) -> Tensor:
    found = torch.tensor(weights or [1.0] * count, dtype=torch.float64)
    return found / found.sum()


def _refuse(scorers: Sequence[Scorer], weights: Sequence[float]) -> None:
    """Raise ValueError for options that do not fit together."""
    if not scorers:
        raise ValueError("scorers must name at least one")
    if weights and len(weights) != len(scorers):
        raise ValueError(f"there must be as many weights as scorers, {len(scorers)}, not {len(weights)}")
    for scorer in scorers:
        if "network" in scorer.all_needs():
            raise ValueError(f"scorer '{scorer.name}' needs the network, and cannot score held-out images in fitting")
