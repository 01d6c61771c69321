"""What a network says of a set of images: all that scorers see."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ood_core.interfaces import Network


@dataclass(frozen=True)
class Head:
    """The linear classifier: logits = embeddings @ weight.T + bias. weight [C, D], bias [C]."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Outputs:
    """All that scorers see of a set of images: the network's outputs, float32 and memory-mapped from the store.

    Attributes:
        embeddings: [N, D], what the classifier is given.
        logits: [N, C]; C is 0 where no head was trained.
        labels: int64 [N]; -1 wherever a scorer must not know them.
        classes: Number of ID classes, also where some have no row.
        head: The classifier, None where no head was trained.
        layers: What the scorer's probes read, each [N, D'].
        held_out: In fitting, for scorers that need it: labelled ID images that the network was not trained on.
        known_ood: In fitting, for scorers that need it: the OOD images that the recipe makes known.
        network: In scoring, for scorers that need it: in evaluation mode, its parameters without gradients.
        images: In scoring, for scorers that need the network: [N, 3, S, S] in [0, 1], on the network's device.
        release: Gives the memory of rows [start, stop) back after they were read; nothing where they are not mapped.
    """

    embeddings: Tensor
    logits: Tensor
    labels: Tensor
    classes: int
    head: Head | None = None
    layers: Mapping[str, Tensor] = field(default_factory=dict)
    held_out: Outputs | None = None
    known_ood: Outputs | None = None
    network: Network | None = None
    images: Tensor | None = None
    release: Callable[[int, int], None] | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.embeddings)

    def __getitem__(self, rows: slice | Tensor) -> Outputs:
        return replace(
            self,
            embeddings=self.embeddings[rows],
            logits=self.logits[rows],
            labels=self.labels[rows],
            layers={name: layer[rows] for name, layer in self.layers.items()},
            images=None if self.images is None else self.images[rows],
            release=None,
        )

    def chunks(self, rows: int = 8192) -> Iterator[Outputs]:
        """Yield consecutive parts of at most so many rows, so that nobody needs all of a large set in memory."""
        for start in range(0, len(self), rows):
            yield self[start : start + rows]
            if self.release is not None:
                self.release(start, min(start + rows, len(self)))

    def without_labels(self) -> Outputs:
        """Return the same outputs with every label -1, as `Score` objects get them."""
        return replace(self, labels=torch.full_like(self.labels, -1))
