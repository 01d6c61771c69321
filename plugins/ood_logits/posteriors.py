"""How far the softmax probabilities are from those that are typical of the classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ood_core.errors import OODError
from ood_core.interfaces import Outputs, PositiveFloat, Score, Scorer, ScorerInfo
from ood_logits.rows import blocks

_TINY = 1e-300  # beside probabilities whose logarithm is taken


@dataclass(frozen=True)
class NearestPosterior(Score):
    """min_k KL(p || d_k), at least 0; of log d_k, float64 [K, C]."""

    log_templates: Tensor

    def __call__(self, outputs: Outputs) -> Tensor:
        quick = self.log_templates.float()
        parts = []
        for block in blocks(outputs.logits):
            # The entropy is the same for all templates, so the nearest one has the least cross-entropy.
            nearest = (block.softmax(1) @ quick.to(block).T).argmax(1)
            log_p = block.double().log_softmax(1)
            parts.append((log_p.exp() * (log_p - self.log_templates[nearest])).sum(1))
        return torch.cat(parts).clamp(min=0)


@dataclass(frozen=True, kw_only=True)
class KLMatching(Scorer):
    """Divergence from the nearest of the classes' mean posteriors (Hendrycks et al., 2022).

    Attributes:
        fit_to: Which images make the d_k: "held-out" as in the paper, or "train" as in the code of ViM and GEN.
    """

    name = "kl-matching"
    needs = frozenset({"logits", "held_out"})
    scores = NearestPosterior
    info = ScorerInfo(
        paper="Hendrycks et al., 2022, Scaling out-of-distribution detection for real-world settings",
        formula="min_k KL(p ‖ d_k),  d_k = mean of p over held-out (or training) images predicted as k",
        fit="H C, H such images",
        score="C²",
        notes="fit_to is the paper's by the accounts of pytorch-ood and Mahalanobis++, and OpenOOD's; the code of "
        "ViM and GEN has training images; a class that no image is predicted as has no d_k, in OpenOOD a one-hot one",
    )

    fit_to: Literal["held-out", "train"] = "held-out"

    def own_needs(self) -> frozenset[str]:
        return self.needs if self.fit_to == "held-out" else self.needs - {"held_out"}

    def fit(self, train: Outputs) -> NearestPosterior:
        images = train.held_out if self.fit_to == "held-out" else train
        assert images is not None
        classes = train.logits.shape[1]
        sums = torch.zeros(classes, classes, dtype=torch.float64)
        counts = torch.zeros(classes, dtype=torch.float64)
        for block in (block for part in images.chunks() for block in blocks(part.logits)):
            predicted = block.argmax(1)
            sums.index_add_(0, predicted, block.double().softmax(1))
            counts += torch.bincount(predicted, minlength=classes)
        seen = counts > 0
        return NearestPosterior((sums[seen] / counts[seen, None]).clamp(min=_TINY).log())


@dataclass(frozen=True)
class FisherRaoDistance(Score):
    """Minus the mean Fisher-Rao distance to the centroids of the classes, in [-pi, 0]."""

    roots: Tensor  # square roots of the centroids' softmax probabilities, float64 [K, C]
    temperature: float  # T of both softmaxes

    def __call__(self, outputs: Outputs) -> Tensor:
        parts = []
        for block in blocks(outputs.logits):
            # float64: close to an angle of 0, arccos makes 1e-4 of an error of 1e-8
            cosines = (block.double() / self.temperature).softmax(1).sqrt_() @ self.roots.T
            parts.append(-2 * cosines.clamp_(max=1).acos_().mean(1))
        return torch.cat(parts)


@dataclass(frozen=True, kw_only=True)
class Igeood(Scorer):
    """Fisher-Rao distance between softmax probabilities and those of the class centroids (Gomes et al., 2022).

    As in the authors' code all distances count, and being far from all classes but one means ID. The centroid mu_c is
    the mean of the logits of class c; the authors find it by gradient descent on the distances.

    Attributes:
        temperature: T of both softmaxes; 1 is the default of the authors' code, whose example for CIFAR-10 has 5.3.
    """

    name = "igeood"
    needs = frozenset({"logits", "labels"})
    scores = FisherRaoDistance
    info = ScorerInfo(
        paper="Gomes et al., 2022, Igeood: An information geometry approach to out-of-distribution detection",
        formula="−mean_c 2 arccos(Σ_j √(p_j q_cj)),  q_c = softmax(μ_c / T)",
        fit="N C",
        score="C²",
        notes="T is the default of the authors' code; its example for a DenseNet on CIFAR-10 has 5.3",
    )

    temperature: PositiveFloat = 1.0

    def fit(self, train: Outputs) -> FisherRaoDistance:
        """Return the distance; classes without a training image have no centroid."""
        sums = torch.zeros(train.classes, train.logits.shape[1], dtype=torch.float64)
        counts = torch.zeros(train.classes, dtype=torch.float64)
        for part in train.chunks():
            labelled = part.labels >= 0
            sums.index_add_(0, part.labels[labelled], part.logits[labelled].double())
            counts += torch.bincount(part.labels[labelled], minlength=train.classes)
        seen = counts > 0
        if not seen.any():
            raise OODError(f"scorer '{self.name}' needs labels of the training images")
        roots = (sums[seen] / counts[seen, None] / self.temperature).softmax(1).sqrt()
        return FisherRaoDistance(roots, self.temperature)
