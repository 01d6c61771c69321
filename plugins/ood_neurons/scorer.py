"""Neuron activation coverage of the last hidden layer (Liu et al., 2024).

The state of neuron i is σ(a f_i ∂KL(u‖p)/∂f_i), with u the uniform distribution: its output, weighted by its effect on
the prediction. At the embedding the derivative is known, Wᵀ (p - u), so no backward pass is needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ood_core.interfaces import Outputs, PositiveFloat, PositiveInt, Score, Scorer, ScorerInfo

_BASE = 1000.0
_CHUNK_ROWS = 2048


@dataclass(frozen=True)
class NegativeCoverage(Score):
    """Minus the mean coverage of the neurons' states, in [-1, 0]."""

    coverage: Tensor  # [D, bins], in [0, 1]; how well the training images fill each bin
    edges: Tensor  # [bins - 1], between the bins
    weight: Tensor  # of the head, [C, D]
    steepness: float  # a

    def __call__(self, outputs: Outputs) -> Tensor:
        neurons, scores = torch.arange(len(self.coverage)), []
        for chunk in outputs.chunks(_CHUNK_ROWS):
            bins = find_bins(chunk, self.weight, self.steepness, self.edges)
            scores.append(-self.coverage[neurons, bins].mean(1))
        return torch.cat(scores)


@dataclass(frozen=True, kw_only=True)
class NAC(Scorer):
    """Neuron activation coverage of the embedding, NAC-UE (Liu et al., 2024).

    As in the published code the bins are narrow around 1/2, where the states of small outputs lie: their edges are
    log(1 + t (√1000 - 1)) / log 1000 for t from 0 to 1 in equal steps, mirrored at 1/2; pytorch-ood's are narrow near 0
    and 1. The published run counts 1000 training images, here all of them: a larger `filled` may be better.

    Attributes:
        steepness: a of the states σ(a f Wᵀ(p - u)); 100 for CIFAR-10 and ViT, 3000 for ResNet-50 on ImageNet.
        bins: Number of bins.
        filled: O, number of training images that fill a bin; 500 for ViT and 10 for ResNet-50 on ImageNet.
    """

    name = "nac"
    needs = frozenset({"embeddings", "logits", "head"})
    scores = NegativeCoverage
    info = ScorerInfo(
        paper="Liu, Tian, Li, Ma and Wang, 2024, Neuron activation coverage: Rethinking out-of-distribution detection "
        "and generalization",
        formula="-mean min(n / O, 1), n training images in the bin of σ(a f ⊙ Wᵀ(p - 1/C))",
        fit="N C D",
        score="C D",
        notes="those of the authors for CIFAR-10, who count 1000 training images; they have others for CIFAR-100 and "
        "ImageNet",
    )

    steepness: PositiveFloat = 100.0
    bins: PositiveInt = 50
    filled: PositiveInt = 50

    def fit(self, train: Outputs) -> NegativeCoverage:
        assert train.head is not None, "the head is in `needs`"
        weight, edges = train.head.weight, bin_edges(self.bins)
        width = weight.shape[1]
        counts = torch.zeros(width * self.bins, dtype=torch.int64)
        offsets = self.bins * torch.arange(width)
        for chunk in train.chunks(_CHUNK_ROWS):
            bins = find_bins(chunk, weight, self.steepness, edges)
            counts += (bins + offsets).flatten().bincount(minlength=len(counts))
        coverage = (counts.double() / self.filled).clamp(max=1).view(width, self.bins)
        return NegativeCoverage(coverage, edges, weight, self.steepness)


def find_bins(outputs: Outputs, weight: Tensor, steepness: float, edges: Tensor) -> Tensor:
    """Return the bin of each neuron's state, int64 [N, D]."""
    surplus = outputs.logits.double().softmax(1) - 1 / outputs.logits.shape[1]
    influence = outputs.embeddings.double() * (surplus @ weight.double())
    return torch.bucketize((steepness * influence).sigmoid(), edges, right=True)


def bin_edges(bins: int) -> Tensor:
    """Return the inner edges of the bins of [0, 1], [bins - 1]."""
    even = torch.arange(1, bins, dtype=torch.float64) / bins
    distance = 2 * torch.minimum(even, 1 - even)  # 0 at the ends, 1 in the middle
    half = (distance * (math.sqrt(_BASE) - 1)).log1p() / math.log(_BASE)
    return torch.where(even <= 0.5, half, 1 - half)
