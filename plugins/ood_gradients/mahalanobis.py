"""The Mahalanobis distance of an image that was moved towards its nearest class (Lee et al., 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ood_core.interfaces import NonNegativeFloat, Outputs, Score, Scorer, ScorerInfo
from ood_core.neighbors import nearest
from ood_core.statistics import Whitening, moments
from ood_gradients.passes import network_of, pixel_gradient


@dataclass(frozen=True)
class PerturbedDistance(Score):
    """Squared distance to the nearest of the whitened means, after a step that brings the nearest one closer."""

    whitening: Whitening  # of the covariance within classes
    means: Tensor  # [K, rank], whitened
    rank: int  # directions in which the training embeddings vary; the others are ignored
    epsilon: float  # length of the step, with pixels in [0, 1]

    def __call__(self, outputs: Outputs) -> Tensor:
        network, images = network_of(outputs)
        mean, transform = self.whitening.mean.to(images.device), self.whitening.transform.to(images.device)
        means = self.means.to(images.device)

        def embed(pixels: Tensor) -> Tensor:
            return network.forward_head(network.forward_features(pixels), pre_logits=True)

        def distance_gradient(embeddings: Tensor) -> Tensor:
            white = (embeddings - mean) @ transform
            nearest = torch.addmm(means.square().sum(1), white, means.T, alpha=-2).argmin(1)
            return 2 * (white - means[nearest]) @ transform.T

        step = self.epsilon * pixel_gradient(images, embed, distance_gradient).sign()
        with torch.no_grad():
            return nearest((embed(images - step).double() - mean) @ transform, means)[0]


@dataclass(frozen=True, kw_only=True)
class PerturbedMahalanobis(Scorer):
    """Mahalanobis distance after a step of the image towards its nearest class (Lee et al., 2018).

    The authors add further layers, as `mahalanobis-ensemble` does without the step.

    Attributes:
        epsilon: Step in each pixel, with pixels in [0, 1]; one of 0, 0.0005, 0.001, 0.0014, 0.002, 0.005, 0.01 there.
    """

    name = "mahalanobis-perturbed"
    needs = frozenset({"embeddings", "labels", "network"})
    scores = PerturbedDistance
    info = ScorerInfo(
        paper="Lee et al., 2018, A simple unified framework for detecting out-of-distribution samples",
        formula="min_c d_c(x′)²,  x′ = x − ε sign ∇ min_c d_c(x)²,  d_c² = (f − μ_c)ᵀ Σ⁻¹ (f − μ_c)",
        fit="N D² + D³",
        score="3 passes: forward, backward, forward",
        notes="epsilon is the middle of those that the authors choose among by known OOD images; OpenOOD has 0.0014",
    )

    epsilon: NonNegativeFloat = 0.0014

    def fit(self, train: Outputs) -> PerturbedDistance:
        found = moments(((part.embeddings, part.labels) for part in train.chunks()), train.classes)
        whitening = Whitening.of(found.mean, found.tied_covariance)
        means = whitening(found.means[found.counts > 0])
        return PerturbedDistance(whitening, means, whitening.rank, self.epsilon)
