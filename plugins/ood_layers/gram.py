"""How far the correlations between the channels of each layer leave the range that training images of the class had."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import relu

from ood_core.errors import OODError
from ood_core.interfaces import Outputs, PositiveInt, Score, Scorer, ScorerInfo
from ood_layers.maps import GramSums

_LOG = logging.getLogger(__name__)
_EPSILON = 1e-6  # beside the bounds that are divided by, as in the published code


@dataclass(frozen=True)
class GramDeviation(Score):
    """Deviations of the predicted class, each layer's divided by what held-out images have there.

    Attributes:
        arrays: Names of the layers' arrays.
        low, high: float64 [C, M], the range of each value in each class; M counts the values of all layers.
        usual: float64 [layers], the mean deviation of held-out images.
    """

    arrays: tuple[str, ...]
    low: Tensor
    high: Tensor
    usual: Tensor

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the score [N]."""
        return (deviations(outputs, self.arrays, self.low, self.high) / self.usual).sum(1)


def deviations(outputs: Outputs, arrays: tuple[str, ...], low: Tensor, high: Tensor) -> Tensor:
    """Return the deviation of each layer, float64 [N, layers]."""
    predicted = outputs.logits.argmax(1)
    found, start = [], 0
    for name in arrays:
        values = outputs.layers[name].double()
        columns = slice(start, start + values.shape[1])
        least, most = low[predicted, columns], high[predicted, columns]
        below = relu(least - values) / (least + _EPSILON).abs()
        above = relu(values - most) / (most + _EPSILON).abs()
        found.append((below + above).sum(1))
        start = columns.stop
    return torch.stack(found, 1)


@dataclass(frozen=True, kw_only=True)
class Gram(Scorer):
    """Gram matrices of the layers against their range in the predicted class (Sastry and Oore, 2020).

    score = sum over layers l of delta_l / E[delta_l], with delta_l the sum over powers p and channels of the relative
    excess of G_p = ((F^p F^pT) 1)^(1/p) over its minimum and maximum among training images of the predicted class, and
    the expectation over held-out ID images. Row sums stand for the whole matrix, as in the authors' code.

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
        notes=(
            "powers is the authors'; their code and OpenOOD's also divide by the largest softmax; OpenOOD has powers "
            "to 5, and reads every convolution and ReLU"
        ),
    )

    layers: tuple[str, ...] = ()
    powers: PositiveInt = 10

    def probe(self) -> GramSums:
        """Return what sums up the Gram matrices."""
        return GramSums(wanted=self.layers, powers=self.powers)

    def fit(self, train: Outputs) -> GramDeviation:
        """Return the deviation from the range of the training images, class by predicted class.

        Raises:
            OODError: There are no logits or no held-out images.
        """
        if not train.logits.shape[1]:
            raise OODError(f"scorer '{self.name}' needs logits, and no training stage gives the network a classifier")
        if train.held_out is None:
            raise OODError(f"scorer '{self.name}' needs held-out ID images")
        arrays = self.probe().arrays(train)
        low, high = _ranges(train, arrays)
        usual = torch.zeros(len(arrays), dtype=torch.float64)
        for part in train.held_out.chunks():
            usual += deviations(part, arrays, low, high).sum(0) / len(train.held_out)
        if not (usual > 0).all():
            _LOG.warning("gram: held-out images do not deviate in %d layers", int((usual <= 0).sum()))
        return GramDeviation(arrays, low, high, torch.where(usual > 0, usual, 1.0))


def _ranges(train: Outputs, arrays: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Return least and greatest values, [C, M] each; a class that is never predicted gets the range of all images."""
    width = sum(train.layers[name].shape[1] for name in arrays)
    low = torch.full((train.logits.shape[1], width), torch.inf, dtype=torch.float64)
    high = -low
    for part in train.chunks():
        values = torch.cat([part.layers[name].double() for name in arrays], 1)
        row_class = part.logits.argmax(1)[:, None].expand_as(values)
        low = low.scatter_reduce(0, row_class, values, "amin")
        high = high.scatter_reduce(0, row_class, values, "amax")
    never = torch.isinf(low).any(1)
    low[never], high[never] = low[~never].amin(0), high[~never].amax(0)
    return low, high
