"""How long the gradient at the network's parameters is, of a loss that a flat prediction makes smallest.

The images pass one by one: a gradient for each of them is as large as the network. `torch.func.vmap` over several was
measured to be slower on CPUs (ResNet-18, timm's ViT-Tiny), because each image then has its own convolution weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.func import functional_call

from ood_core.errors import OODError
from ood_core.interfaces import FormulaScorer, Network, Outputs, PositiveFloat, ScorerInfo
from ood_gradients.passes import network_of

Parameters: TypeAlias = Literal["all", "head"]  # all of the network, or the weight of the classifier alone


@dataclass(frozen=True, kw_only=True)
class NetworkGradNorm(FormulaScorer):
    """GradNorm over all parameters of the network, by a backward pass for each image (after Huang et al., 2021).

    The authors' code has the weight of the classifier alone, which `gradnorm` computes without the network.

    Attributes:
        temperature: T; 1 in the authors' code.
        parameters: "all" of them, or the weight of the "head".
    """

    name = "gradnorm-network"
    needs = frozenset({"logits", "network"})
    info = ScorerInfo(
        paper="Huang, Geng and Li, 2021, On the importance of gradients for detecting distributional shifts in the "
        "wild",
        formula="−‖∇ KL(u‖softmax(z/T))‖₁ at all parameters",
        score="2 passes of one image: forward, backward",
    )

    temperature: PositiveFloat = 1.0
    parameters: Parameters = "all"

    def score(self, outputs: Outputs) -> Tensor:
        scores = torch.zeros(len(outputs), dtype=torch.float64)
        for row, gradient in _gradients(outputs, self.parameters, self.temperature):
            scores[row] -= gradient.abs().sum(dtype=torch.float64).cpu()
        return scores


@dataclass(frozen=True, kw_only=True)
class GradUncertainty(FormulaScorer):
    """Squared L2 norm of the gradient against a label that claims every class (after Lee and AlRegib, 2020).

    The paper trains a detector on the norms of all layers, with OOD images; pytorch-ood scores their negative sum.

    Attributes:
        parameters: "all" of them, or the weight of the "head".
    """

    name = "grad-uncertainty"
    needs = frozenset({"logits", "network"})
    info = ScorerInfo(
        paper="Lee and AlRegib, 2020, Gradients as a measure of uncertainty in neural networks",
        formula="−‖∇ Σ log p‖₂² at all parameters",
        score="2 passes of one image: forward, backward",
    )

    parameters: Parameters = "all"

    def score(self, outputs: Outputs) -> Tensor:
        scores = torch.zeros(len(outputs), dtype=torch.float64)
        for row, gradient in _gradients(outputs, self.parameters, temperature=1.0):
            scores[row] -= gradient.double().square().sum().cpu()
        return scores * outputs.logits.shape[1] ** 2


def _leaves(network: Network, parameters: Parameters) -> dict[str, Tensor]:
    """Return stand-ins for the chosen parameters, in the same memory; the network's own stay frozen."""
    weight = getattr(network.get_classifier(), "weight", None) if parameters == "head" else None
    if parameters == "head" and weight is None:
        kind = type(network.get_classifier()).__name__
        raise OODError(f"the classifier is a {kind}, which has no weight of its own; choose 'parameters: all'")
    with torch.inference_mode(False):
        return {
            name: parameter.detach().requires_grad_()
            for name, parameter in network.named_parameters()
            if weight is None or parameter is weight
        }


def _gradients(outputs: Outputs, parameters: Parameters, temperature: float) -> Iterator[tuple[int, Tensor]]:
    """Yield rows with the gradients at each of the parameters of -1/C sum log softmax(z / T), image by image."""
    network, images = network_of(outputs)
    chosen = _leaves(network, parameters)
    for row, image in enumerate(images):
        with torch.inference_mode(False), torch.enable_grad():
            logits: Tensor = functional_call(network, dict(chosen), (image[None].clone(),))
            loss = -(logits.double() / temperature).log_softmax(1).mean()
            found = torch.autograd.grad(loss, tuple(chosen.values()), allow_unused=True)
        yield from ((row, gradient) for gradient in found if gradient is not None)
