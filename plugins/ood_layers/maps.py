"""Probes that reduce the output of each layer to one row of numbers for each image."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ood_core.errors import OODError
from ood_core.interfaces import Network, Outputs, Probe


def flatten_positions(name: str, output: Tensor) -> Tensor:
    """Return a layer's maps [B, C, H, W], tokens [B, L, C] or vectors [B, C] as [B, C, L] with L positions."""
    if not isinstance(output, Tensor) or output.ndim not in (2, 3, 4):
        shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise OODError(f"layer '{name}' returns {shape}, neither maps [B, C, H, W] nor tokens [B, L, C]")
    if output.ndim == 4:
        return output.flatten(2)
    return output.transpose(1, 2) if output.ndim == 3 else output.unsqueeze(2)


@dataclass(frozen=True, kw_only=True)
class LayerProbe(Probe):
    """Reads the layers in `wanted`, or the network's own list if empty."""

    kind: ClassVar[str]
    wanted: tuple[str, ...] = ()

    def layers(self, network: Network) -> tuple[str, ...]:
        found = self.wanted or network.layer_names()
        if not found:
            raise OODError("the network does not name its layers; set 'layers' to names of its submodules")
        return found

    def prefix(self) -> str:
        """Return the prefix of this probe's array names, which no other probe has."""
        return f"{self.kind}({', '.join(self.wanted)}):"

    def array_names(self, outputs: Outputs) -> tuple[str, ...]:
        """Return the names of this probe's arrays among the layers of outputs."""
        return tuple(name for name in outputs.layers if name.startswith(self.prefix()))

    def read(self, network: Network, features: Tensor, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        names = self.layers(network)
        return {self.prefix() + name: self.summarize(flatten_positions(name, maps[name])) for name in names}

    @abstractmethod
    def summarize(self, values: Tensor) -> Tensor:
        """Return [B, D'] for values [B, C, L]."""


@dataclass(frozen=True, kw_only=True)
class LayerMeans(LayerProbe):
    """The mean over positions of every channel."""

    kind = "mean"

    def summarize(self, values: Tensor) -> Tensor:
        return values.mean(2)


@dataclass(frozen=True, kw_only=True)
class GramSums(LayerProbe):
    """The p-th roots of the row sums of the channels' Gram matrices of powers p from 1 to `powers`."""

    kind = "gram"
    powers: int

    def prefix(self) -> str:
        return f"{self.powers} {super().prefix()}"

    def summarize(self, values: Tensor) -> Tensor:
        """Return [B, powers * C]: sign(r) |r|^(1/p) of the row sums r of (X^p) (X^p)^T."""
        values = values.double()
        extent = values.abs().amax((1, 2), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        scaled = values / extent  # x^20 would leave the range of float32
        sums = []
        for power in range(1, self.powers + 1):
            raised = scaled**power
            rows = (raised * raised.sum(1, keepdim=True)).sum(2)  # = (X^p (X^p)^T) 1, without the matrix
            sums.append(rows.sign() * rows.abs() ** (1 / power) * extent[:, :, 0] ** 2)
        return torch.cat(sums, 1)
