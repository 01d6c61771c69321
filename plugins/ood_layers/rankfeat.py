"""The energy after the largest singular component of the last feature map is removed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ood_core.errors import OODError
from ood_core.interfaces import Network, Outputs, PositiveFloat, Probe, Score, Scorer, ScorerInfo

ARRAY = "rankfeat:logits"


@dataclass(frozen=True, kw_only=True)
class RankReducedLogits(Probe):
    """Logits of the last feature map without its largest singular component."""

    def layers(self, network: Network) -> tuple[str, ...]:
        """Return no layers: the features are enough."""
        if isinstance(network.get_classifier(), torch.nn.Identity):
            raise OODError("scorer 'rankfeat' needs logits, and the network has no classifier")
        return ()

    def read(self, network: Network, features: Tensor, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {ARRAY: network.forward_head(remove_first_component(features))}


def remove_first_component(features: Tensor) -> Tensor:
    """Return features [B, C, H, W], or tokens [B, L, C], less s1 u1 v1^T of each image's matrix."""
    if features.ndim not in (3, 4):
        raise OODError(f"scorer 'rankfeat' needs feature maps, and the network's last features are {features.ndim}-d")
    matrix = features.flatten(2).double()
    wide = matrix if matrix.shape[1] <= matrix.shape[2] else matrix.mT
    # the top eigenvector u of M M^T is the left singular vector: u u^T M = s1 u v^T; eigh of the smaller side is cheap
    first = torch.linalg.eigh(wide @ wide.mT)[1][:, :, -1:]
    rest: Tensor = wide - first @ (first.mT @ wide)
    rest = rest if matrix.shape[1] <= matrix.shape[2] else rest.mT
    return rest.reshape(features.shape).to(features.dtype)


@dataclass(frozen=True)
class RankReducedEnergy(Score):
    """-T log sum exp(z' / T) of the logits without the first component."""

    temperature: float

    def __call__(self, outputs: Outputs) -> Tensor:
        return -self.temperature * (outputs.layers[ARRAY].double() / self.temperature).logsumexp(1)


@dataclass(frozen=True, kw_only=True)
class RankFeat(Scorer):
    """Energy after the largest singular component of the last feature map is removed (Song et al., 2022).

    The authors' code for convolutional networks takes the mean of z' and the logits after the same step one stage
    earlier, from where an arbitrary timm model cannot be continued.

    Attributes:
        temperature: T of the energy; 1 in the authors' code.
    """

    name = "rankfeat"
    needs = frozenset({"layers", "head"})
    scores = RankReducedEnergy
    info = ScorerInfo(
        paper="Song, Sebe and Wang, 2022, RankFeat: Rank-1 feature removal for out-of-distribution detection",
        formula="−T logsumexp(z′/T),  z′ = logits of X − s₁u₁v₁ᵀ",
        fit="none",
        score="C, after an eigendecomposition a map in the extraction",
        notes="of the last map alone; the authors' code and OpenOOD take the mean of the logits of the last two blocks",
    )

    temperature: PositiveFloat = 1.0

    def probe(self) -> RankReducedLogits:
        return RankReducedLogits()

    def fit(self, train: Outputs) -> RankReducedEnergy:
        return RankReducedEnergy(self.temperature)
