"""Few-shot OOD detection: a linear classifier of frozen embeddings with outputs for known OOD classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import linear, normalize

from ood_core.interfaces import NonNegativeFloat, Outputs, PositiveFloat, PositiveInt, Score, Scorer, ScorerInfo
from ood_outliers.logistic import Linear, fit_logistic_regression


@dataclass(frozen=True)
class Scaling:
    """Scaling of embeddings before they are classified."""

    unit: bool  # to unit length first
    mean: Tensor  # float64 [D]
    factor: Tensor  # float64 [D]

    @classmethod
    def to_unit_length(cls, train: Outputs) -> Scaling:
        """Return the scaling to unit length."""
        factor = torch.ones(train.embeddings.shape[1], dtype=torch.float64)
        return cls(True, torch.zeros_like(factor), factor)

    @classmethod
    def to_unit_variance(cls, train: Outputs) -> Scaling:
        """Return the scaling to zero mean and unit variance in each dimension; constants are only centred."""
        count = len(train)
        mean = torch.stack([chunk.embeddings.double().sum(0) for chunk in train.chunks()]).sum(0) / count
        squares = torch.stack([(chunk.embeddings.double() - mean).square().sum(0) for chunk in train.chunks()])
        deviation = (squares.sum(0) / count).sqrt()
        constant = deviation <= 1e-12 * deviation.max()
        return cls(False, mean, torch.where(constant, 1, 1 / deviation.clamp(min=torch.finfo(torch.float64).tiny)))

    def __call__(self, embeddings: Tensor) -> Tensor:
        rows = embeddings.double()
        return ((normalize(rows) if self.unit else rows) - self.mean) * self.factor


@dataclass(frozen=True)
class KnownOdds(Score):
    """The log odds of the known OOD classes against the ID classes."""

    scaling: Scaling
    classifier: Linear  # outputs of the ID classes first
    id_outputs: int
    ood_outputs: int

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the score [N]; ranks like the probabilities, which have ties near 1."""
        logits = linear(self.scaling(outputs.embeddings), self.classifier.weight, self.classifier.bias)
        return logits[:, self.id_outputs :].logsumexp(1) - logits[:, : self.id_outputs].logsumexp(1)


@dataclass(frozen=True, kw_only=True)
class FewShotHead(Scorer):
    """Probability of the known OOD classes under a linear classifier of ID and OOD classes (Fort et al., 2021).

    Ranks like p, the sum of the probabilities of the known OOD classes, but is log(p / (1 - p)), which has no ties. The
    classifier is fitted to all ID training images and the known OOD images by cross-entropy. A larger weight of the few
    OOD images equals repeating them.

    Attributes:
        ood_weight: Total weight of the known OOD images; that of the ID images is 1, so 1 balances them.
        scaling: Of embeddings: zero mean and unit variance in each dimension ("standard"), or unit length ("length").
        decay: L2 penalty: decay / 2 times the squared weights of the classifier is added to the mean loss.
        iterations: Maximum number of L-BFGS iterations.
    """

    name = "few-shot-head"
    needs = frozenset({"embeddings", "labels", "known_ood"})
    scores = KnownOdds
    info = ScorerInfo(
        paper="Fort, Ren and Lakshminarayanan, 2021, Exploring the limits of out-of-distribution detection",
        formula="log Σ_o exp u_o − log Σ_c exp u_c,  u = V f + v fitted to ID classes c and known OOD classes o",
        fit="N D (C + O) for each iteration",
        score="D (C + O)",
        notes="all options are choices made here: the authors' published code is without this classifier",
    )

    ood_weight: PositiveFloat = 1.0
    scaling: Literal["standard", "length"] = "standard"
    decay: NonNegativeFloat = 1e-4
    iterations: PositiveInt = 200

    def fit(self, train: Outputs) -> KnownOdds:
        known = train.known_ood
        assert known is not None, "known OOD images are in `needs`"
        scaling = (Scaling.to_unit_length if self.scaling == "length" else Scaling.to_unit_variance)(train)
        inside, outside = torch.unique(train.labels), torch.unique(known.labels)
        share = 1 / (1 + self.ood_weight)
        sets = ((train, inside, 0, share), (known, outside, len(inside), self.ood_weight * share))

        def rows() -> Iterator[tuple[Tensor, Tensor, float]]:
            for outputs, classes, first, weight in sets:
                for chunk in outputs.chunks():
                    targets = first + torch.searchsorted(classes, chunk.labels)
                    yield scaling(chunk.embeddings), targets, weight / len(outputs)

        shape = (len(inside) + len(outside), train.embeddings.shape[1])
        classifier = fit_logistic_regression(rows, shape, self.decay, self.iterations)
        return KnownOdds(scaling, classifier, len(inside), len(outside))
