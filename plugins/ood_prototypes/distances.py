"""Distances from an embedding to the nearest of the class means, in four geometries.

The released code of MOOD has the last three as its metrics "euclidean", "minkowski" and "chebyshev": of embeddings of
unit length, to the mean of all training images. With one class that is the same. Its "cos" is meant as the largest
cosine to a training image; for that, see `knn` with k = 1.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize as unit

from ood_core.errors import OODError
from ood_core.interfaces import Outputs, Score, Scorer, ScorerInfo
from ood_core.neighbors import nearest

_LOG = logging.getLogger(__name__)
_NEEDS = frozenset({"embeddings", "labels"})
_MEANS = "of class means; MOOD's code takes the mean of all training images"
_PAPER = "Li et al., 2023, Rethinking out-of-distribution (OOD) detection: Masked image modeling is all you need"


def class_means(parts: Iterable[tuple[Tensor, Tensor]], classes: int) -> tuple[Tensor, Tensor]:
    """Return the means [C, D] of rows [n, D] by label [n], zero for empty classes, and how many rows each has [C]."""
    counts = torch.zeros(classes, dtype=torch.int64)
    sums: Tensor | None = None
    for embeddings, labels in parts:
        require_usable(embeddings, labels, classes)
        if sums is None:
            sums = torch.zeros(classes, embeddings.shape[1], dtype=torch.float64)
        sums.index_add_(0, labels, embeddings.double())
        counts += labels.bincount(minlength=classes)
    if sums is None or not len(labels):
        raise OODError("there is no training image to take the mean of")
    return sums / counts.clamp(min=1)[:, None], counts


def require_usable(embeddings: Tensor, labels: Tensor, classes: int) -> None:
    """Raise OODError for a label outside of [0, C) or an embedding that is not finite."""
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise OODError(f"labels of training data must lie in 0..{classes - 1}, there is {wrong[0].item()}")
    broken = int((~embeddings.isfinite()).any(1).sum())
    if broken:
        raise OODError(f"{broken} of {len(embeddings)} training embeddings hold NaN or infinite values")


@dataclass(frozen=True)
class CosineDistance(Score):
    """One minus the largest cosine to directions [K, D] of unit length, in [0, 2]; 1 for a zero embedding."""

    directions: Tensor

    def __call__(self, outputs: Outputs) -> Tensor:
        return 1 - (unit(outputs.embeddings.double()) @ self.directions.T).amax(1)


@dataclass(frozen=True, kw_only=True)
class Cosine(Scorer):
    """Cosine distance to the nearest class mean (released code of MOOD, Li et al., 2023).

    m_c is the mean of the class's embeddings after each was scaled to unit length.
    """

    name = "cosine"
    needs = _NEEDS
    scores = CosineDistance
    info = ScorerInfo(
        paper=_PAPER,
        formula="1 - max_c cos(f, m_c)",
        fit="N D",
        score="C D",
        notes="of class means; MOOD's code means the largest cosine to a training image, as `{use: knn, k: 1}` ranks",
    )

    def fit(self, train: Outputs) -> CosineDistance:
        return CosineDistance(unit(_means(train, normalize=True)))


@dataclass(frozen=True)
class MeanDistance(Score):
    """Distance to the nearest mean."""

    means: Tensor  # [K, D]
    normalize: bool  # whether embeddings are scaled to unit length (L2) first
    norm: str  # "l1", "l2" or "linf"

    def __call__(self, outputs: Outputs) -> Tensor:
        embeddings = _prepare(outputs.embeddings, self.normalize)
        if self.norm == "l2":
            return nearest(embeddings, self.means)[0].sqrt()
        return torch.cdist(embeddings, self.means, p=float(self.norm[1:])).amin(1)


@dataclass(frozen=True, kw_only=True)
class NearestMean(Scorer):
    """Distance to the nearest class mean.

    Attributes:
        normalize: Scale embeddings to unit length first, as in the released code.
    """

    needs = _NEEDS
    scores = MeanDistance
    norm: ClassVar[str]

    normalize: bool = True

    def fit(self, train: Outputs) -> MeanDistance:
        return MeanDistance(_means(train, self.normalize), self.normalize, self.norm)


@dataclass(frozen=True, kw_only=True)
class Euclidean(NearestMean):
    """Euclidean distance to the nearest class mean (released code of MOOD, Li et al., 2023)."""

    name = "euclidean"
    norm = "l2"
    info = ScorerInfo(paper=_PAPER, formula="min_c ‖f - m_c‖₂", fit="N D", score="C D", notes=_MEANS)


@dataclass(frozen=True, kw_only=True)
class CityBlock(NearestMean):
    """L1 distance to the nearest class mean ("minkowski" in the released code of MOOD, Li et al., 2023).

    No matrix product does it: with a thousand classes it takes several times as long as `euclidean`.
    """

    name = "l1"
    norm = "l1"
    info = ScorerInfo(paper=_PAPER, formula="min_c ‖f - m_c‖₁", fit="N D", score="C D", notes=_MEANS)


@dataclass(frozen=True, kw_only=True)
class Chebyshev(NearestMean):
    """Largest difference in one dimension to the nearest class mean (released code of MOOD, Li et al., 2023).

    As slow as `l1`.
    """

    name = "linf"
    norm = "linf"
    info = ScorerInfo(paper=_PAPER, formula="min_c ‖f - m_c‖∞", fit="N D", score="C D", notes=_MEANS)


def _means(train: Outputs, normalize: bool) -> Tensor:
    """Return the means of the classes that have a training image, [K, D]."""
    parts = ((_prepare(part.embeddings, normalize), part.labels) for part in train.chunks())
    means, counts = class_means(parts, train.classes)
    if not counts.all():
        _LOG.warning("%d of %d classes have no training image to be near to", int((counts == 0).sum()), len(counts))
    return means[counts > 0]


def _prepare(embeddings: Tensor, normalize: bool) -> Tensor:
    """Return the embeddings in float64, of unit length if wished; zero stays zero."""
    return unit(embeddings.double()) if normalize else embeddings.double()
