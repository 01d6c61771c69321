"""What a layer's output is made into, so that it can be kept: one row of numbers for each image."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ood_core.errors import OODError
from ood_core.interfaces import Network, Outputs, Probe


def positions(name: str, output: Tensor) -> Tensor:
    """Return a layer's output as [B, C, L], L positions: of maps [B, C, H, W] or of tokens [B, L, C].

    Raises:
        OODError: The output is neither.
    """
    if not isinstance(output, Tensor) or output.ndim not in (2, 3, 4):
        shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise OODError(f"layer '{name}' puts out {shape}, neither maps [B, C, H, W] nor tokens [B, L, C]")
    if output.ndim == 4:
        return output.flatten(2)
    return output.transpose(1, 2) if output.ndim == 3 else output.unsqueeze(2)


@dataclass(frozen=True, kw_only=True)
class LayerProbe(Probe):
    """Reads some layers; none named are the network's own choice."""

    reads: ClassVar[str]
    wanted: tuple[str, ...] = ()

    def layers(self, network: Network) -> tuple[str, ...]:
        """Return the layers to read.

        Raises:
            OODError: None is named, and the network does not say which ones there are.
        """
        found = self.wanted or network.layer_names()
        if not found:
            raise OODError("the network does not name its layers; set 'layers' to names of its submodules")
        return found

    def label(self) -> str:
        """Return what the names of this probe's arrays begin with, and those of no other."""
        return f"{self.reads}({', '.join(self.wanted)}):"

    def arrays(self, outputs: Outputs) -> tuple[str, ...]:
        """Return the names of this probe's arrays among the layers of outputs."""
        return tuple(name for name in outputs.layers if name.startswith(self.label()))

    def read(self, network: Network, features: Tensor, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return one array for each layer, [B, D']."""
        return {self.label() + name: self.summary(positions(name, maps[name])) for name in self.layers(network)}

    @abstractmethod
    def summary(self, values: Tensor) -> Tensor:
        """Return [B, D'] for values [B, C, L]."""


@dataclass(frozen=True, kw_only=True)
class LayerMeans(LayerProbe):
    """The mean over positions of every channel."""

    reads = "mean"

    def summary(self, values: Tensor) -> Tensor:
        """Return the means [B, C]."""
        return values.mean(2)


@dataclass(frozen=True, kw_only=True)
class GramSums(LayerProbe):
    """The row sums of the Gram matrices of powers 1 to `powers` of the channels, each brought back by its root."""

    reads = "gram"
    powers: int

    def label(self) -> str:
        """Return the beginning of the names, which has the powers in it."""
        return f"{self.powers} {super().label()}"

    def summary(self, values: Tensor) -> Tensor:
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
