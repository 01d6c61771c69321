"""Deviation of the channel correlations in each layer from their range among training images of the class."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import relu

from ood_core.interfaces import Outputs, PositiveInt, Score, Scorer, ScorerInfo
from ood_layers.maps import GramSums

_LOG = logging.getLogger(__name__)
_EPSILON = 1e-6  # added to divisors, as in the published code


@dataclass(frozen=True)
class GramDeviation(Score):
    """Sum over layers of the deviation from the range in the predicted class, over its mean on held-out images."""

    arrays: tuple[str, ...]  # names of the layers' arrays
    low: Tensor  # float64 [C, M], minimum of each of the M values of all layers in each class
    high: Tensor  # float64 [C, M], maximum
    usual: Tensor  # float64 [layers], the mean deviation of held-out images

    def __call__(self, outputs: Outputs) -> Tensor:
        return (measure_deviations(outputs, self.arrays, self.low, self.high) / self.usual).sum(1)


def measure_deviations(outputs: Outputs, arrays: tuple[str, ...], low: Tensor, high: Tensor) -> Tensor:
    """Return the deviation of each layer, float64 [N, layers]."""
    predicted = outputs.logits.argmax(1)
    deviations, start = [], 0
    for name in arrays:
        values = outputs.layers[name].double()
        columns = slice(start, start + values.shape[1])
        least, most = low[predicted, columns], high[predicted, columns]
        below = relu(least - values) / (least + _EPSILON).abs()
        above = relu(values - most) / (most + _EPSILON).abs()
        deviations.append((below + above).sum(1))
        start = columns.stop
    return torch.stack(deviations, 1)


@dataclass(frozen=True, kw_only=True)
class Gram(Scorer):
    """Gram matrices of the layers against their range in the predicted class (Sastry and Oore, 2020).

    G_p = ((F^p F^pT) 1)^(1/p) for each power p: row sums stand for the whole matrix, as in the authors' code. Minimum
    and maximum are those of training images of the predicted class, the expectation is over held-out ID images.

    Attributes:
        layers: Names of submodules with maps [B, C, H, W] or tokens [B, L, C]; empty takes the network's own list.
        powers: Gram matrices of powers 1 to this; 10 in the authors' code.
    """

    name = "gram"
    needs = frozenset({"logits", "layers", "held_out"})
    scores = GramDeviation
    info = ScorerInfo(
        paper="Sastry and Oore, 2020, Detecting out-of-distribution examples with Gram matrices",
        formula="Σ_l δ_l / E[δ_l],  δ_l = Σ max(0, min − G_p)/|min| + max(0, G_p − max)/|max|",
        fit="N M, M values of all layers and powers",
        score="M",
        notes="powers is the authors'; their code and OpenOOD's also divide by the largest softmax; OpenOOD has "
        "powers to 5, and reads every convolution and ReLU",
    )

    layers: tuple[str, ...] = ()
    powers: PositiveInt = 10

    def probe(self) -> GramSums:
        return GramSums(wanted=self.layers, powers=self.powers)

    def fit(self, train: Outputs) -> GramDeviation:
        """Find the range in each predicted class; a class that is never predicted gets the range of all images."""
        arrays = self.probe().array_names(train)
        width = sum(train.layers[name].shape[1] for name in arrays)
        low = torch.full((train.logits.shape[1], width), torch.inf, dtype=torch.float64)
        high = -low
        for chunk in train.chunks():
            values = torch.cat([chunk.layers[name].double() for name in arrays], 1)
            predicted = chunk.logits.argmax(1)[:, None].expand_as(values)
            low = low.scatter_reduce(0, predicted, values, "amin")
            high = high.scatter_reduce(0, predicted, values, "amax")
        never = torch.isinf(low).any(1)
        low[never], high[never] = low[~never].amin(0), high[~never].amax(0)
        assert train.held_out is not None, "held-out images are in `needs`"
        usual = torch.zeros(len(arrays), dtype=torch.float64)
        for chunk in train.held_out.chunks():
            usual += measure_deviations(chunk, arrays, low, high).sum(0) / len(train.held_out)
        if not (usual > 0).all():
            _LOG.warning("gram: held-out images do not deviate in %d layers", int((usual <= 0).sum()))
        return GramDeviation(arrays, low, high, torch.where(usual > 0, usual, 1.0))
