"""Relations to all training images, similarities of both embedding and prediction (Kim et al., 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Lt
from torch import Tensor
from torch.nn.functional import normalize as unit

from ood_core.errors import OODError
from ood_core.interfaces import NonNegativeInt, Outputs, PositiveFloat, Score, Scorer, ScorerInfo
from ood_knn.neighbours import Sample, sample_outputs

_BLOCK = 256
_QUERIES = 4096
_ROUNDING = 1e-9


@dataclass(frozen=True)
class RelationSum(Score):
    """Minus the sum of relations, at most 0.

    The training images are sorted by prediction and confidence, so that a block of them has similar probabilities.
    Their maxima bound the relations to the block whatever the embeddings: blocks that cannot exceed the threshold are
    skipped, with confident classifiers most of them.
    """

    embeddings: Tensor  # float32 [N, D], of unit length
    probabilities: Tensor  # float32 [N, C]
    maxima: Tensor  # float32 [blocks, C], of the probabilities of each block of 256
    power: float
    threshold: float

    def __call__(self, outputs: Outputs) -> Tensor:
        return torch.cat([-self._sum_relations(chunk) for chunk in outputs.chunks(_QUERIES)])

    def _sum_relations(self, outputs: Outputs) -> Tensor:
        embeddings, probabilities = unit(outputs.embeddings.double()), outputs.logits.double().softmax(1)
        possible = probabilities @ self.maxima.double().T > self.threshold - _ROUNDING
        sums = torch.zeros(len(outputs), dtype=torch.float64)
        blocks = (torch.split(rows, _BLOCK) for rows in (self.embeddings, self.probabilities))
        for block_embeddings, block_probabilities, compared in zip(*blocks, possible.T, strict=True):
            rows = compared.nonzero()[:, 0]
            relations = embeddings[rows] @ block_embeddings.double().T  # those below 0 are below the threshold
            relations *= probabilities[rows] @ block_probabilities.double().T
            sums[rows] += torch.where(relations > self.threshold, relations**self.power, 0).sum(1)
        return sums


@dataclass(frozen=True, kw_only=True)
class RelationGraph(Scorer):
    """Sum of the relations to all training images (neural relation graph, Kim et al., 2023).

    Relations above the threshold are raised to a power. Images without any share the score 0.

    Attributes:
        power: Sharpens relations; 1 for OOD detection in the authors' code, chosen among 1 to 8 in OpenOOD.
        threshold: Relations up to it do not count; 0.03 in the authors' code.
        sample: Share of training images to compare with, drawn at random.
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
        notes="power and threshold are the authors'; OpenOOD then takes the best of power 1 to 8 on validation OOD "
        "images",
    )

    power: PositiveFloat = 1.0
    threshold: Annotated[float, Ge(0), Lt(1)] = 0.03
    sample: Sample = 1.0
    seed: NonNegativeInt = 0

    def fit(self, train: Outputs) -> RelationSum:
        bank = sample_outputs(train, self.sample, self.seed)
        embeddings, probabilities = torch.empty(bank.embeddings.shape), torch.empty(bank.logits.shape)
        start = 0
        for chunk in bank.chunks():
            rows = slice(start, start + len(chunk))
            embeddings[rows] = unit(chunk.embeddings.double())
            probabilities[rows] = chunk.logits.double().softmax(1)
            start += len(chunk)
        if not (embeddings.isfinite().all() and probabilities.isfinite().all()):
            raise OODError(f"scorer '{self.name}': the training outputs hold NaN or infinite values")
        confidence, predicted = probabilities.max(1)
        order = confidence.argsort(descending=True)
        order = order[predicted[order].argsort(stable=True)]
        probabilities = probabilities[order]
        maxima = torch.stack([block.amax(0) for block in torch.split(probabilities, _BLOCK)])
        return RelationSum(embeddings[order], probabilities, maxima, self.power, self.threshold)
