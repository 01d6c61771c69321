"""The checkpoint of a training, from which it continues bit for bit.

One safetensors file: the task, the optimiser's moments and the averaged weights as tensors, the rest as notes, and a
checksum of both. No random state is saved: random numbers and the order of the images follow from seed and step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ood_core.runtime import distributed
from ood_core.store.files import CHECKSUM, load_notes, load_tensors, reading, replacing, save_tensors, tensors_checksum


@dataclass
class Progress:
    """Progress of a training, apart from its tensors."""

    step: int = 0  # finished steps of the optimiser
    seconds: float = 0.0
    waited: float = 0.0  # of these seconds, for images
    totals: dict[str, float] = field(default_factory=dict)  # of the metrics since the epoch began
    epochs: list[dict[str, float]] = field(default_factory=list)  # mean metrics of the finished ones
    scaler: dict[str, Any] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)  # errors of broken pictures that were replaced by others


@dataclass(frozen=True)
class TrainingState:
    """The tensors of a training: the task, the averaged weights if there are any, and the moments of the optimiser."""

    modules: Mapping[str, nn.Module]
    optimizer: Optimizer  # its moments are saved under the position of the parameter

    def save(self, path: Path, progress: Progress) -> None:
        """Write the whole state once, by the first process; the old file stays until the new one is complete."""
        tensors = {
            f"{part}.{name}": distributed.full_tensor(tensor)
            for part, module in self.modules.items()
            for name, tensor in module.state_dict().items()
        }
        for index, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{slot}": distributed.full_tensor(tensor) for slot, tensor in slots.items()}
        if distributed.rank() == 0:
            tensors = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
            notes = {"progress": asdict(progress), CHECKSUM: tensors_checksum(tensors, asdict(progress))}
            with replacing(path) as temporary:
                save_tensors(temporary, tensors, notes)

    def load(self, path: Path) -> Progress:
        """Restore the state from a file; OODError, and nothing is restored, if it is damaged."""
        tensors, notes = load_tensors(path), load_notes(path)
        with reading(path):
            progress = notes["progress"]
            if tensors_checksum(tensors, progress) != notes[CHECKSUM]:
                raise ValueError("it was changed since it was written")
        for part, module in self.modules.items():
            current, saved = module.state_dict(), _without_prefix(tensors, f"{part}.")
            module.load_state_dict(
                {name: distributed.shard_like(tensor, current[name]) for name, tensor in saved.items()}
            )
        state: dict[int, dict[str, Tensor]] = {}
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for name, tensor in _without_prefix(tensors, "optimizer.").items():
            index, slot = name.split(".")
            like = parameters[int(index)]
            state.setdefault(int(index), {})[slot] = distributed.shard_like(tensor, like) if tensor.ndim else tensor
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state})
        return Progress(**progress)


def _without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def non_finite_names(weights: Mapping[str, Tensor]) -> list[str]:
    """Return the names of weights that are not finite."""
    return [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
