"""The scorer `few-shot-head`: a classifier of frozen embeddings that has outputs for known OOD classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ood_core.errors import OODError
from ood_core.interfaces import NonNegativeFloat, Outputs, PositiveFloat, PositiveInt, Score, Scorer, ScorerInfo
from ood_outliers.logistic import Linear, fitted


@dataclass(frozen=True)
class Scaling:
    """What is done to embeddings before they are classified.

    Attributes:
        unit: Whether they get unit length.
        mean: float64 [D], what is taken off then.
        factor: float64 [D], what is multiplied by in the end.
    """

    unit: bool
    mean: Tensor
    factor: Tensor

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Return float64 [N, D]."""
        rows = embeddings.double()
        return ((normalize(rows) if self.unit else rows) - self.mean) * self.factor


def unit_length(train: Outputs) -> Scaling:
    """Return the scaling to unit length."""
    width = train.embeddings.shape[1]
    return Scaling(True, torch.zeros(width, dtype=torch.float64), torch.ones(width, dtype=torch.float64))


def standardised(train: Outputs) -> Scaling:
    """Return the scaling to zero mean and unit variance in each dimension; constants are centred alone."""
    count = len(train)
    mean = torch.stack([part.embeddings.double().sum(0) for part in train.chunks()]).sum(0) / count
    squares = torch.stack([(part.embeddings.double() - mean).square().sum(0) for part in train.chunks()])
    deviation = (squares.sum(0) / count).sqrt()
    constant = deviation <= 1e-12 * deviation.max()
    return Scaling(False, mean, torch.where(constant, 1, 1 / deviation.clamp(min=torch.finfo(torch.float64).tiny)))


@dataclass(frozen=True)
class KnownOdds(Score):
    """The log odds that an image is of one of the known OOD classes.

    Attributes:
        scaling: What comes first.
        classifier: Its first outputs are those of ID classes.
        id_outputs: How many these are.
        ood_outputs: How many others there are.
    """

    scaling: Scaling
    classifier: Linear
    id_outputs: int
    ood_outputs: int

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the score [N]; in the order of the probabilities, which have ties near 1."""
        logits = self.classifier(self.scaling(outputs.embeddings))
        return logits[:, self.id_outputs :].logsumexp(1) - logits[:, : self.id_outputs].logsumexp(1)


@dataclass(frozen=True, kw_only=True)
class FewShotHead(Scorer):
    """Probability of the known OOD classes under a linear classifier of ID and OOD classes (Fort et al., 2021).

    score = log(p / (1 - p)), p the sum over the known OOD classes of their probabilities: as p, without its ties. The
    classifier has an output for each ID class and each known OOD class, and is fitted to all ID training images and the
    known OOD images by cross-entropy. To let the few OOD images weigh more is the same as to repeat them.

    Attributes:
        ood_weight: Of the known OOD images all together, beside that of all ID images, which is 1; 1 balances them.
        scaling: Of embeddings: zero mean and unit variance in each dimension ("standard"), or unit length ("length").
        decay: Of the classifier's weights: decay / 2 times their squares is added to the mean loss.
        iterations: Of L-BFGS, at most.
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
        """Return the log odds.

        Raises:
            OODError: There are no known OOD images, or embeddings are not finite.
        """
        known = train.known_ood
        if known is None:
            raise OODError(f"scorer '{self.name}' needs known OOD images")
        scaling = (unit_length if self.scaling == "length" else standardised)(train)
        inside, foreign = torch.unique(train.labels), torch.unique(known.labels)
        share = 1 / (1 + self.ood_weight)
        sets = ((train, inside, 0, share), (known, foreign, len(inside), self.ood_weight * share))

        def rows() -> Iterator[tuple[Tensor, Tensor, float]]:
            for outputs, classes, first, together in sets:
                for part in outputs.chunks():
                    numbers = first + torch.searchsorted(classes, part.labels)
                    yield scaling(part.embeddings), numbers, together / len(outputs)

        shape = (len(inside) + len(foreign), train.embeddings.shape[1])
        classifier = fitted(rows, shape, self.decay, self.iterations)
        return KnownOdds(scaling, classifier, len(inside), len(foreign))
