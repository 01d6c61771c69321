"""The regret of the predictive normalized maximum likelihood (pNML) learner for the last layer (Bibas et al., 2021).

The learner may add the test image, with any label, to the training set of the head. The less of the embedding's
direction the training set covers, the larger is κ, and with it q_i = p_i / (p_i + (1 - p_i) p_i^κ) of class i; the
regret is the log of their sum. As in the published code, embeddings have unit length and a leading 1 for the bias, and
p are the probabilities of the head for these embeddings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt, Lt
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from ood_core.interfaces import Head, Outputs, Score, Scorer, ScorerInfo
from ood_core.statistics import moments


@dataclass(frozen=True)
class Regret(Score):
    """log sum q over log C, in [0, 1]."""

    head: Head
    seen: Tensor  # [D + 1, rank], whitens the directions that training embeddings span
    unseen: Tensor  # [D + 1, D + 1 - rank], an orthonormal basis of the other directions
    rank: int  # of the training embeddings with the leading 1

    def __call__(self, outputs: Outputs) -> Tensor:
        embeddings = normalize(outputs.embeddings.double())
        log_p = (embeddings @ self.head.weight.double().T + self.head.bias.double()).log_softmax(1)
        padded = _prepend_one(embeddings)
        within, outside = (padded @ self.seen).square().sum(1), (padded @ self.unseen).square().sum(1)
        kappa = torch.maximum(outside, within / (1 + within))
        return log_normalizer(log_p, kappa) / math.log(max(log_p.shape[1], 2))


@dataclass(frozen=True, kw_only=True)
class PNML(Scorer):
    """Regret of the pNML learner for the last layer (Bibas et al., 2021).

    X has a row x = (1, f / |f|) for each training image. |x⊥|² replaces κ where it is larger, with x⊥ the part of x
    that is orthogonal to all of them; pytorch-ood omits the 1 and x⊥.

    Attributes:
        cutoff: Directions with at most this share of the largest eigenvalue of XᵀX belong to x⊥.
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
        assert train.head is not None, "the head is in `needs`"
        rows = ((_prepend_one(normalize(c.embeddings.double())), torch.zeros_like(c.labels)) for c in train.chunks())
        found = moments(rows, classes=1)
        gram = found.within + len(train) * found.mean.outer(found.mean)
        eigenvalues, directions = torch.linalg.eigh(gram)
        spanned = eigenvalues > self.cutoff * eigenvalues[-1]
        seen = directions[:, spanned] / eigenvalues[spanned].sqrt()
        return Regret(train.head, seen, directions[:, ~spanned], seen.shape[1])


def _prepend_one(embeddings: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(embeddings[:, :1]), embeddings], 1)


def log_normalizer(log_p: Tensor, kappa: Tensor) -> Tensor:
    """Return log sum_i q_i [N] for log p [N, C] and κ [N], precise where one probability rounds to 1.

    With log odds l = log p - log(1 - p), q is the sigmoid of l - κ log p. The q of the most probable class is near 1,
    so its distance from 1 is summed instead.
    """
    top = log_p.argmax(1, keepdim=True)
    others = log_p.scatter(1, top, -torch.inf)
    log_not_p = torch.log(-torch.expm1(others)).scatter(1, top, others.logsumexp(1, keepdim=True))
    log_odds = log_p * (1 - kappa[:, None]) - log_not_p
    missing = logsigmoid(-log_odds.gather(1, top)).exp()[:, 0]
    rest = log_odds.scatter(1, top, -torch.inf).sigmoid().sum(1)
    return (rest - missing).log1p()
