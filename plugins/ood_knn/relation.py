"""Relations to all training images: alike both in embedding and in prediction (Kim et al., 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Lt
from torch import Tensor
from torch.nn.functional import normalize as unit

from ood_core.errors import OODError
from ood_core.interfaces import NonNegativeInt, Outputs, PositiveFloat, Score, Scorer, ScorerInfo
from ood_knn.bank import Sample, draw, require_logits

_BLOCK = 256
_QUERIES = 4096
_ROUNDING = 1e-9


@dataclass(frozen=True)
class RelationSum(Score):
    """Minus the sum of relations, at most 0.

    The bank is sorted by prediction and confidence, so that a block of it has similar probabilities: their maxima tell
    which images have no relation above the threshold to any of the block, whatever the embeddings, and need not be
    compared. With confident classifiers that is most pairs.

    Attributes:
        embeddings: float32 [N, D], of unit length.
        probabilities: float32 [N, C].
        maxima: float32 [blocks, C], of the probabilities of each block of 256.
        power: What relations are raised to.
        threshold: Relations up to it do not count.
    """

    embeddings: Tensor
    probabilities: Tensor
    maxima: Tensor
    power: float
    threshold: float

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the score [N]."""
        return torch.cat([-self._sums(part) for part in outputs.chunks(_QUERIES)])

    def _sums(self, outputs: Outputs) -> Tensor:
        embeddings, probabilities = unit(outputs.embeddings.double()), outputs.logits.double().softmax(1)
        possible = probabilities @ self.maxima.double().T > self.threshold - _ROUNDING
        sums = torch.zeros(len(outputs), dtype=torch.float64)
        blocks = zip(_blocks(self.embeddings), _blocks(self.probabilities), possible.T, strict=True)
        for their_embeddings, their_probabilities, worth in blocks:
            rows = worth.nonzero()[:, 0]
            relations = embeddings[rows] @ their_embeddings.double().T  # those below 0 are below the threshold
            relations *= probabilities[rows] @ their_probabilities.double().T
            sums[rows] += torch.where(relations > self.threshold, relations**self.power, 0).sum(1)
        return sums


@dataclass(frozen=True, kw_only=True)
class RelationGraph(Scorer):
    """Sum of the relations to all training images (neural relation graph, Kim et al., 2023).

    -sum_i r_i^power over r_i > threshold, with the relation r_i = max(0, cos(f, f_i)) p · p_i. Images that are related
    to none of the training images share the score 0.

    Attributes:
        power: Sharpens relations; 1 for OOD detection in the authors' code, which OpenOOD chooses among 1 to 8.
        threshold: Relations up to it do not count; 0.03 in the authors' code.
        sample: The share of training images to compare with, drawn at random.
        seed: Draws the sample.
    """

    name = "relation-graph"
    needs = frozenset({"embeddings", "logits"})
    scores = RelationSum
    info = ScorerInfo(
        paper="Kim, Yun and Song, 2023, Neural relation graph: A unified framework for identifying label noise and "
        "outlier data",
        formula="-Σᵢ rᵢ, rᵢ = max(0, cos(f, fᵢ)) p·pᵢ > 0.03",
        fit="N (C + D); keeps that much",
        score="N (C + D) at most",
        notes=(
            "power and threshold are the authors'; OpenOOD then takes the best of power 1 to 8 on validation OOD images"
        ),
    )

    power: PositiveFloat = 1.0
    threshold: Annotated[float, Ge(0), Lt(1)] = 0.03
    sample: Sample = 1.0
    seed: NonNegativeInt = 0

    def fit(self, train: Outputs) -> RelationSum:
        """Return the score.

        Raises:
            OODError: There are no logits, there is no training image, or outputs are not finite.
        """
        require_logits(train, self.name)
        bank = draw(train, self.sample, self.seed)
        embeddings, probabilities = torch.empty(bank.embeddings.shape), torch.empty(bank.logits.shape)
        start = 0
        for part in bank.chunks():
            rows = slice(start, start + len(part))
            embeddings[rows] = unit(part.embeddings.double())
            probabilities[rows] = part.logits.double().softmax(1)
            start += len(part)
        if not (embeddings.isfinite().all() and probabilities.isfinite().all()):
            raise OODError(f"scorer '{self.name}': the training outputs hold NaN or infinite values")
        top, predicted = probabilities.max(1)
        order = top.argsort(descending=True)
        order = order[predicted[order].argsort(stable=True)]
        probabilities = probabilities[order]
        maxima = torch.stack([block.amax(0) for block in _blocks(probabilities)])
        return RelationSum(embeddings[order], probabilities, maxima, self.power, self.threshold)


def _blocks(rows: Tensor) -> list[Tensor]:
    return [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)]
