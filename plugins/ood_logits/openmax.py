"""OpenMax (Bendale and Boult, 2016): an unknown class gains what logits lose for being far from their class."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ood_core.errors import OODError
from ood_core.interfaces import Outputs, PositiveInt, Score, Scorer, ScorerInfo
from ood_logits import weibull
from ood_logits.rows import blocks, labelled_blocks
from ood_logits.weibull import Weibull

_LOG = logging.getLogger(__name__)
_EUCLIDEAN = 1 / 200  # of the Euclidean distance beside the cosine distance, in the authors' code


@dataclass(frozen=True)
class UnknownOdds(Score):
    """Log-odds of the unknown class."""

    means: Tensor  # mean logits of the correctly classified training images, float64 [C, C]
    tails: Weibull  # distribution of the largest distances from them
    alpha: int  # how many of the largest logits are revised

    def __call__(self, outputs: Outputs) -> Tensor:
        means = self.means if outputs.logits.dtype == torch.float64 else self.means.float()
        return torch.cat([self._odds(block, means) for block in blocks(outputs.logits)])

    def _odds(self, block: Tensor, means: Tensor) -> Tensor:
        values, classes = block.topk(self.alpha, 1)
        squared = torch.stack([(block - means[column]).square_().sum(1) for column in classes.T], 1)
        distances = _distance(squared, _length(block)[:, None], _length(means)[classes])
        share = torch.arange(self.alpha, 0, -1, dtype=torch.float64) / self.alpha
        # To lose a share of a negative logit would be to gain.
        taken = values.double().clamp(min=0) * self.tails.cdf(distances, classes) * share
        revised = block.double().scatter(1, classes, values.double() - taken)
        return taken.sum(1) - revised.logsumexp(1)


def _length(rows: Tensor) -> Tensor:
    return rows.square().sum(1).double().sqrt()


def _distance(squared: Tensor, length: Tensor, other: Tensor) -> Tensor:
    """Return the Euclidean distance over 200 plus the cosine distance, float64; the latter is 1 from zero."""
    squared, product = squared.double(), length * other
    # 1 - cos without a difference of numbers next to 1
    cosine = (squared - (length - other).square()) / (2 * product)
    return _EUCLIDEAN * squared.sqrt() + torch.where(product > 0, cosine, 1.0)


@dataclass(frozen=True, kw_only=True)
class OpenMax(Scorer):
    """Probability of an unknown class, by the tails of the distances to class means (Bendale and Boult, 2016).

    Of the alpha largest logits, the i-th loses the share w = F_c(distance to mu_c) (alpha + 1 - i) / alpha; F_c is the
    Weibull distribution of the largest distances of class c, Euclidean / 200 + cosine as in the authors' code. Unlike
    there, negative logits lose nothing, because they would rise by it.

    Attributes:
        alpha: How many of the largest logits are revised; 10 in the authors' code. At most C.
        tail: How many of the largest distances of a class its distribution is fitted to; 20 there.
    """

    name = "openmax"
    needs = frozenset({"logits", "labels"})
    scores = UnknownOdds
    info = ScorerInfo(
        paper="Bendale and Boult, 2016, Towards open set deep networks",
        formula="u − log Σ_c exp(z_c (1 − w_c)),  u = Σ_c z_c w_c,  w from Weibull tails of distances from μ_c",
        fit="N C",
        score="α C",
        notes="alpha and the distance are those of the authors' code; OpenOOD has 3, and Euclidean distances alone",
    )

    alpha: PositiveInt = 10
    tail: PositiveInt = 20

    def fit(self, train: Outputs) -> UnknownOdds:
        """Return the odds; a class without a correctly classified training image is always unknown."""
        classes = train.logits.shape[1]
        sums = torch.zeros(classes, classes, dtype=torch.float64)
        counts = torch.zeros(classes, dtype=torch.int64)
        for logits, labels in _correct(train):
            sums.index_add_(0, labels, logits.double())
            counts += labels.bincount(minlength=classes)
        if not counts.any():
            raise OODError(f"scorer '{self.name}' needs training images that are classified correctly")
        if not counts.all():
            _LOG.warning("openmax: no training image of %d classes is classified correctly", int((counts == 0).sum()))
        means = sums / counts.clamp(min=1)[:, None]
        tails = weibull.fit(_tails(train, means, counts, self.tail))
        return UnknownOdds(means, tails, min(self.alpha, classes))


def _correct(train: Outputs) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits [B, C] and labels [B] of correctly classified rows."""
    for block, labels in labelled_blocks(train):
        right = block.argmax(1) == labels
        yield block[right], labels[right]


def _tails(train: Outputs, means: Tensor, counts: Tensor, size: int) -> Tensor:
    """Return the largest distances of each class, float64 [C, size], nan where there are fewer."""
    found = []
    for logits, labels in _correct(train):
        own = means[labels].to(logits)
        squared = (logits - own).square_().sum(1)
        found.append((_distance(squared, _length(logits), _length(own)), labels))
    distances, labels = (torch.cat(column) for column in zip(*found, strict=True))
    order = distances.argsort(descending=True)
    order = order[labels[order].argsort(stable=True)]
    distances, labels = distances[order], labels[order]
    rank = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels]
    tails = torch.full((len(counts), size), torch.nan, dtype=torch.float64)
    kept = rank < size
    tails[labels[kept], rank[kept]] = distances[kept]
    return tails
