"""The steps themselves: what becomes of embeddings [N, D], the head and logits [N, C], and its score."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ood_core.interfaces import Head, Outputs, Score
from ood_shaping.shaped import Shape, reshaped

_MOST = 300.0  # exp of more than twice this leaves float64


@dataclass(frozen=True)
class Clip(Shape):
    """ReAct: what lies above the limit becomes the limit."""

    limit: float
    head: Head

    def __call__(self, outputs: Outputs) -> Outputs:
        """Return the outputs of clipped embeddings."""
        return reshaped(outputs, outputs.embeddings.double().clamp(max=self.limit), self.head)


@dataclass(frozen=True)
class Band(Shape):
    """VRA-P: what lies below the band becomes 0, what lies above it its upper end; [D] each."""

    lower: Tensor
    upper: Tensor
    head: Head

    def __call__(self, outputs: Outputs) -> Outputs:
        """Return the outputs of rectified embeddings."""
        embeddings = outputs.embeddings.double()
        kept = torch.where(embeddings < self.lower, 0, embeddings)
        return reshaped(outputs, torch.minimum(kept, self.upper), self.head)


@dataclass(frozen=True)
class Sparse(Shape):
    """DICE: the same embeddings under a head of which most weights are 0."""

    threshold: float
    head: Head

    def __call__(self, outputs: Outputs) -> Outputs:
        """Return the outputs under the sparse head."""
        return reshaped(outputs, outputs.embeddings.double(), self.head)


@dataclass(frozen=True)
class Prune(Shape):
    """ASH-P: all but the largest entries of a row become 0."""

    percentile: float
    head: Head

    def __call__(self, outputs: Outputs) -> Outputs:
        """Return the outputs of pruned embeddings."""
        embeddings = outputs.embeddings.double()
        values, where = largest(embeddings, self.percentile)
        return reshaped(outputs, torch.zeros_like(embeddings).scatter(1, where, values), self.head)


@dataclass(frozen=True)
class Binarize(Shape):
    """ASH-B: the largest entries of a row become equal, with the sum that the whole row had; the others 0."""

    percentile: float
    head: Head

    def __call__(self, outputs: Outputs) -> Outputs:
        """Return the outputs of binarized embeddings."""
        embeddings = outputs.embeddings.double()
        _, where = largest(embeddings, self.percentile)
        shares = embeddings.sum(1, keepdim=True) / where.shape[1]
        return reshaped(outputs, torch.zeros_like(embeddings).scatter(1, where, shares.expand(where.shape)), self.head)


@dataclass(frozen=True)
class Sharpen(Shape):
    """ASH-S: all but the largest entries of a row become 0, those grow by exp(sum of all / sum of the largest)."""

    percentile: float
    head: Head

    def __call__(self, outputs: Outputs) -> Outputs:
        """Return the outputs of sharpened embeddings."""
        embeddings = outputs.embeddings.double()
        values, where = largest(embeddings, self.percentile)
        grown = values * growth(embeddings, values)
        return reshaped(outputs, torch.zeros_like(embeddings).scatter(1, where, grown), self.head)


@dataclass(frozen=True)
class Grow(Shape):
    """SCALE: every entry of a row grows by exp(sum of all / sum of the largest)."""

    percentile: float
    head: Head

    def __call__(self, outputs: Outputs) -> Outputs:
        """Return the outputs of scaled embeddings."""
        embeddings = outputs.embeddings.double()
        values, _ = largest(embeddings, self.percentile)
        return reshaped(outputs, embeddings * growth(embeddings, values), self.head)


@dataclass(frozen=True)
class GrowLogits(Shape):
    """LTS: the logits grow by the square of sum of all / sum of the largest positive entries of the row."""

    percentile: float
    head: Head

    def __call__(self, outputs: Outputs) -> Outputs:
        """Return the outputs with scaled logits and the embeddings as they are."""
        plain = reshaped(outputs, outputs.embeddings.double(), self.head)
        positive = plain.embeddings.relu()
        top = largest(positive, self.percentile)[0].sum(1, keepdim=True)
        # a row without a positive entry has no ratio; it is left as it is
        ratio = torch.where(top > 0, positive.sum(1, keepdim=True) / top, 1)
        return replace(plain, logits=plain.logits * ratio.square())


@dataclass(frozen=True)
class ShapedScore(Score):
    """What another score says of the shaped outputs; where there is none, minus the log-sum-exp of their logits."""

    shape: Clip | Band | Sparse | Prune | Binarize | Sharpen | Grow | GrowLogits
    inner: Score | None

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the score [N]."""
        shaped = self.shape(outputs)
        return -shaped.logits.logsumexp(1) if self.inner is None else self.inner(shaped)


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
