"""The softmax at a high temperature, after a step of the image towards the class that the network predicts.

The step is one of ε on the scale of pixels in [0, 1]. The published codes step on images that are normalised already,
and divide the sign by the standard deviation of the channel: (x - m)/s - ε sign/s is the image x - ε sign, normalised.

The sign is that of the gradient of -log p_max, as in the paper. It is taken of log((1 - p_max) / p_max), which rises
and falls with it and has a gradient where p_max rounds to 1. Where the gradient is exactly 0 there is no step; the
published codes step down. As in them, perturbed images are not clipped to [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ood_core.interfaces import FormulaScorer, Network, NonNegativeFloat, Outputs, PositiveFloat, ScorerInfo
from ood_gradients.passes import error_log_odds, error_log_odds_gradient, network_of, pixel_gradient


@dataclass(frozen=True, kw_only=True)
class ODIN(FormulaScorer):
    """Softmax at a high temperature of an image that was moved towards its predicted class (Liang et al., 2018).

    Orders like the negative maximum of the paper, and keeps 11 digits where the softmax is nearly uniform.

    Attributes:
        temperature: T; 1000 in the authors' code.
        epsilon: Step in each pixel, with pixels in [0, 1]; 0.0014 there, for DenseNet on CIFAR-10.
    """

    name = "odin"
    needs = frozenset({"logits", "network"})
    info = ScorerInfo(
        paper="Liang, Li and Srikant, 2018, Enhancing the reliability of out-of-distribution image detection in "
        "neural networks",
        formula="log(1 − max softmax(z(x′)/T)),  x′ = x + ε sign ∇ log max softmax(z(x)/T)",
        score="3 passes: forward, backward, forward",
        notes="epsilon is the authors' for DenseNet on CIFAR-10, who have others to 0.0048 for other networks and "
        "OOD images; OpenOOD's configuration is the same, then the best of temperature 1 to 1000 and epsilon 0.0014 "
        "and 0.0028 on validation OOD images",
    )

    temperature: PositiveFloat = 1000.0
    epsilon: NonNegativeFloat = 0.0014

    def score(self, outputs: Outputs) -> Tensor:
        network, images = network_of(outputs)
        step = self.epsilon * _log_odds_gradient(network, images, self.temperature).sign()
        return _log_error(network, images - step, self.temperature)


@dataclass(frozen=True, kw_only=True)
class IODIN(ODIN):
    """ODIN with a step in the one value of the image that has the largest gradient, i-ODIN (Regmi, 2024).

    Attributes:
        epsilon: Step in the one value, with pixels in [0, 1]; 0.0014 in the published code.
    """

    name = "iodin"
    info = ScorerInfo(
        paper="Regmi, 2024, Going beyond conventional OOD detection",
        formula="log(1 − max softmax(z(x′)/T)),  x′ = x + ε sign ∇ᵢ log max softmax(z(x)/T) at the largest |∇ᵢ|",
        score="3 passes: forward, backward, forward",
        notes="OpenOOD then takes the best of temperature 1 to 1000 and epsilon 0.0014 and 0.0028 on validation OOD "
        "images",
    )

    def score(self, outputs: Outputs) -> Tensor:
        network, images = network_of(outputs)
        gradient = _log_odds_gradient(network, images, self.temperature).flatten(1)
        steepest = gradient.abs().argmax(1, keepdim=True)
        signs = torch.zeros_like(gradient).scatter(1, steepest, gradient.gather(1, steepest).sign())
        return _log_error(network, images - self.epsilon * signs.view_as(images), self.temperature)


def _log_odds_gradient(network: Network, images: Tensor, temperature: float) -> Tensor:
    """Return the gradient at the pixels of the log-odds against the predicted class, times T."""
    return pixel_gradient(images, network, lambda logits: error_log_odds_gradient(logits / temperature))


@torch.no_grad()
def _log_error(network: Network, images: Tensor, temperature: float) -> Tensor:
    """Return log(1 - p_max), float64 [N]."""
    return logsigmoid(error_log_odds(network(images).double() / temperature))
