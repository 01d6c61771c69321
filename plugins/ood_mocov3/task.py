"""MoCo v3's two encoders and its loss (Chen et al., 2021)."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from ood_core.interfaces import Batch, Network, PatchNetwork, Task
from ood_core.interfaces.building_blocks import tiled
from ood_core.runtime import distributed
from ood_mocov3.normalisation import JoinedBatchNorm


@dataclass(frozen=True)
class Contrast:
    """What is compared, and how."""

    hidden: int  # width inside projector and predictor
    output: int  # width of queries and keys
    temperature: float  # of the softmax over the batch
    momentum: float  # of the averaged encoder at the start

    def momentum_at(self, progress: float) -> float:
        """Return the momentum, which rises to 1 along half a cosine."""
        return 1 - (1 - self.momentum) * (1 + math.cos(math.pi * progress)) / 2

    def loss(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return 2 t times the cross-entropy of finding each query's own key among those of all processes; [B, D]."""
        own = torch.arange(len(queries), device=queries.device) + len(queries) * distributed.rank()
        dtype = torch.promote_types(queries.dtype, torch.float32)
        # not under autocast, which rounds similarities to two digits before they are divided by the temperature
        with torch.autocast(queries.device.type, enabled=False):
            unit_keys = distributed.all_gather(normalize(keys.to(dtype), dim=1))
            similarities = normalize(queries.to(dtype), dim=1) @ unit_keys.T
            return 2 * self.temperature * cross_entropy(similarities / self.temperature, own)


class MoCoV3Task(Task):
    """Queries from the network in training, keys from its moving average."""

    def __init__(self, network: Network, contrast: Contrast, freeze_patches: bool) -> None:
        super().__init__()
        self.network = network
        self.contrast = contrast
        self.momentum = contrast.momentum
        hidden, output, transformer = contrast.hidden, contrast.output, isinstance(network, PatchNetwork)
        if isinstance(network, PatchNetwork):
            network.fix_positions()
            network.patch_projection().requires_grad_(not freeze_patches)
        # one layer less for convolutional networks, and nothing behind their predictor (builder.py of the paper)
        inside = (hidden, hidden) if transformer else (hidden,)
        self.projector = perceptron(network.num_features, *inside, output)
        self.predictor = perceptron(output, hidden, output)
        if not transformer:
            del self.predictor[-1]
        self.averaged_network = deepcopy(network).requires_grad_(False)
        self.averaged_projector = deepcopy(self.projector).requires_grad_(False)

    @torch.no_grad()
    def before_step(self, progress: float) -> None:
        """Move the averaged encoder with the momentum of this step, before its keys are computed.

        Running statistics are not averaged, the copies have their own.
        """
        self.momentum = self.contrast.momentum_at(progress)
        pairs = ((self.averaged_network, self.network), (self.averaged_projector, self.projector))
        for averaged, trained in pairs:
            for average, current in zip(averaged.parameters(), trained.parameters(), strict=True):
                average.lerp_(current, 1 - self.momentum)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        first, second = batch.views
        queries = [self.predictor(self.projector(_embed(self.network, view))) for view in (first, second)]
        with torch.no_grad():
            keys = [self.averaged_projector(_embed(self.averaged_network, view)) for view in (second, first)]
        losses = [self.contrast.loss(query, key) for query, key in zip(queries, keys, strict=True)]
        return {"loss": losses[0] + losses[1]}

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        return {"views": tiled(batch.views)}


def _embed(network: Network, images: Tensor) -> Tensor:
    return network.forward_head(network.forward_features(images), pre_logits=True)


def perceptron(*widths: int) -> nn.Sequential:
    """Return linear layers without bias, each with batch normalisation: before a ReLU, or at the end without affine."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths[:-1]):
        layers += [nn.Linear(inputs, outputs, bias=False), JoinedBatchNorm(outputs), nn.ReLU()]
    layers += [nn.Linear(widths[-2], widths[-1], bias=False), JoinedBatchNorm(widths[-1], affine=False)]
    return nn.Sequential(*layers)
