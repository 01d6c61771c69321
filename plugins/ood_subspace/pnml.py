"""The regret of the predictive normalized maximum likelihood (pNML) learner for the last layer (Bibas et al., 2021).

The learner may add the test image, with any label, to the training set of the head. How much the probabilities could
change by that depends on how little of the embedding's direction the training set has seen, κ: class i gets

    q_i = p_i / (p_i + (1 - p_i) p_i^κ),

and the regret is the log of their sum, 0 for what is certain and has been seen. As in the published code, embeddings
have unit length and a 1 before them for the bias, and p are the probabilities that the head gives to those.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt, Lt
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from ood_core.errors import OODError
from ood_core.interfaces import Head, Outputs, Score, Scorer, ScorerInfo
from ood_core.statistics import moments


@dataclass(frozen=True)
class Regret(Score):
    """log sum q over log C, in [0, 1].

    Attributes:
        head: The classifier.
        seen: [D + 1, rank], whitens the directions in which there are training embeddings.
        unseen: [D + 1, D + 1 - rank], an orthonormal basis of the others.
        rank: Of the training embeddings with the 1 before them.
    """

    head: Head
    seen: Tensor
    unseen: Tensor
    rank: int

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the score [N]."""
        embeddings = normalize(outputs.embeddings.double())
        log_p = (embeddings @ self.head.weight.double().T + self.head.bias.double()).log_softmax(1)
        padded = _padded(embeddings)
        within, outside = (padded @ self.seen).square().sum(1), (padded @ self.unseen).square().sum(1)
        change = torch.maximum(outside, within / (1 + within))
        return _log_sum_of_genies(log_p, change) / math.log(max(log_p.shape[1], 2))


@dataclass(frozen=True, kw_only=True)
class PNML(Scorer):
    """Regret of the pNML learner for the last layer (Bibas et al., 2021).

    log Σ p_i / (p_i + (1 - p_i) p_i^κ) / log C, with κ = max(|x⊥|², h / (1 + h)) and h = xᵀ (XᵀX)⁺ x. x is (1, f / |f|)
    and X has one such row for each training image; x⊥ is the part of x that is orthogonal to all of them. pytorch-ood
    leaves the 1 and x⊥ out.

    Attributes:
        cutoff: Directions with at most this share of the largest eigenvalue of XᵀX count as not seen.
    """

    name = "pnml"
    needs = frozenset({"embeddings", "head"})
    scores = Regret
    info = ScorerInfo(
        paper="Bibas, Feder and Hassner, 2021, Single layer predictive normalized maximum likelihood for "
        "out-of-distribution detection",
        formula="log Σ p / (p + (1 - p) p^κ) / log C, κ = h / (1 + h), h = xᵀ (XᵀX)⁺ x, x = f / ‖f‖",
        fit="N D² + D³",
        score="D² + C D",
    )

    cutoff: Annotated[float, Gt(0), Lt(1)] = 1e-12

    def fit(self, train: Outputs) -> Regret:
        """Return the score.

        Raises:
            OODError: There is no classifier, or embeddings are unusable.
        """
        if train.head is None:
            raise OODError(f"scorer '{self.name}' needs logits, and no training stage gives the network a classifier")
        parts = (
            (_padded(normalize(part.embeddings.double())), torch.zeros_like(part.labels)) for part in train.chunks()
        )
        found = moments(parts, classes=1)
        gram = found.within + len(train) * found.mean.outer(found.mean)
        eigenvalues, directions = torch.linalg.eigh(gram)
        kept = eigenvalues > self.cutoff * eigenvalues[-1]
        seen = directions[:, kept] / eigenvalues[kept].sqrt()
        return Regret(train.head, seen, directions[:, ~kept], seen.shape[1])


def _padded(embeddings: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(embeddings[:, :1]), embeddings], 1)


def _log_sum_of_genies(log_p: Tensor, change: Tensor) -> Tensor:
    """Return log sum q, [N]; keeps its precision where one probability rounds to 1.

    With log odds l = log p - log(1 - p), q is the sigmoid of l - κ log p. That of the most probable class is near 1, so
    its distance from 1 is taken in place of it.
    """
    top = log_p.argmax(1, keepdim=True)
    others = log_p.scatter(1, top, -torch.inf)
    log_not_p = torch.log(-torch.expm1(others)).scatter(1, top, others.logsumexp(1, keepdim=True))
    log_odds = log_p * (1 - change[:, None]) - log_not_p
    missing = logsigmoid(-log_odds.gather(1, top)).exp()[:, 0]
    rest = log_odds.scatter(1, top, -torch.inf).sigmoid().sum(1)
    return (rest - missing).log1p()
