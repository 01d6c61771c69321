"""The pretext task `mocov3`."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from ood_core.data.transforms import ContrastiveAugmentation, MultiView
from ood_core.interfaces import Network, PatchNetwork, TrainingData, Views
from ood_core.interfaces.building_blocks import tiled
from ood_core.interfaces.plugin import NonNegativeFloat, PositiveFloat, PositiveInt
from ood_core.interfaces.training import Batch, PretextTask, Task, refuse_single_images
from ood_core.runtime import distributed


class JoinedBatchNorm(nn.BatchNorm1d):
    """What `nn.BatchNorm1d` gives for the batches of all processes after each other; each has the same size."""

    def forward(self, rows: Tensor) -> Tensor:
        if not self.training or distributed.world_size() == 1:
            return super().forward(rows)
        wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
        count = len(rows) * distributed.world_size()
        mean = distributed.differentiable_all_reduce(wide.sum(0)) / count
        variance = distributed.differentiable_all_reduce((wide - mean).square().sum(0)) / count
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None, "it is made with running statistics"
            assert self.num_batches_tracked is not None and self.momentum is not None, "and with a momentum"
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        normal = (wide - mean) * (variance + self.eps).rsqrt()
        return (normal if self.weight is None else normal * self.weight + self.bias).to(rows.dtype)


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
        """Move the averaged encoder before its keys are computed; running statistics are not averaged."""
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


@dataclass(frozen=True, kw_only=True)
class MoCoV3(PretextTask):
    """Recognise an image in another view of it among the other images of the batch (Chen et al., 2021).

    The batch holds all negatives: 256 images or more are worth their memory. With several processes it is the batch of
    all of them; where `accumulation` cuts it, its parts are compared within themselves. The initial weights of the
    paper are timm's option `weight_init: moco`. Positions of a ViT are fixed sines and cosines. What is projected is
    the embedding that is scored later, the class token in the paper. Convolutional networks get one layer less before
    the contrast, as in the paper; its optimiser for them, LARS, is not here.

    Attributes:
        decay_all: True here, as the paper's code exempts nothing from weight decay; that is 0.1 for ViTs.
        temperature: Of the softmax over the batch; 0.2 in the paper for ViTs.
        momentum: Of the averaged encoder at the start, rising to 1; 0.99 in the paper.
        hidden: Width inside projector and predictor; 4096 in the paper.
        output: Width of what is compared; 256 in the paper.
        freeze_patches: Whether the patch embedding stays as it is, as in the paper, which makes ViTs stable. In a
            hybrid it is the whole convolutional part: set it to false there.
        crop_scale: Smallest share of an image's area that a random crop keeps; 0.08 in the paper.
        flip: Whether half of the views are mirrored.
        color_jitter: Strength for brightness and contrast; 0.4 in the paper, 0 changes no colour.
        blur: Whether the first view is always blurred and the second sometimes.
        solarize: Share of second views whose bright pixels are inverted; 0.2 in the paper.
    """

    name = "mocov3"
    decay_all: bool = True
    temperature: PositiveFloat = 0.2
    momentum: Annotated[float, Ge(0), Le(1)] = 0.99
    hidden: PositiveInt = 4096
    output: PositiveInt = 256
    freeze_patches: bool = True
    crop_scale: Annotated[float, Gt(0), Le(1)] = 0.08
    flip: bool = True
    color_jitter: NonNegativeFloat = 0.4
    blur: bool = True
    solarize: Annotated[float, Ge(0), Le(1)] = 0.2

    picture_legends: ClassVar[dict[str, str]] = {"views": "from top to bottom: first view of each image; second view"}

    def check(self) -> None:
        refuse_single_images(self)

    def views(self, image_size: int, grid: tuple[int, int] | None) -> Views:
        both = ContrastiveAugmentation(crop_scale=self.crop_scale, flip=self.flip, color_jitter=self.color_jitter)
        first, second = (1.0, 0.1) if self.blur else (0.0, 0.0)
        return MultiView((both.view(image_size, first), both.view(image_size, second, self.solarize)))

    def build(self, network: Network, data: TrainingData) -> MoCoV3Task:
        """Return the task; the patch embedding of the network is frozen in it."""
        contrast = Contrast(self.hidden, self.output, self.temperature, self.momentum)
        return MoCoV3Task(network, contrast, self.freeze_patches)
