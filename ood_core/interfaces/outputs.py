"""What a network says of a set of images: all that scorers see."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from ood_core.errors import OODError

if TYPE_CHECKING:
    from ood_core.interfaces import Network, Scorer


@dataclass(frozen=True)
class Head:
    """The linear classifier: logits = embeddings @ weight.T + bias. weight [C, D], bias [C]."""

    weight: Tensor
    bias: Tensor


class Undeclared(Tensor):
    """Stands for a tensor that a scorer does not name in its `needs`; it has rows, and values that cannot be read."""

    refusal: str

    @classmethod
    def of(cls, rows: Tensor, part: str, scorer: str) -> Self:
        """Return the placeholder of a part, with as many rows."""
        made = rows.as_subclass(cls)
        made.refusal = f"scorer '{scorer}' reads '{part}', which its 'needs' does not name; add \"{part}\" to 'needs'"
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Allow what reads no values; anything else is an OODError that names scorer and part."""
        leaves = [leaf for one in args for leaf in (one if isinstance(one, (list, tuple)) else [one])]
        held = [leaf for leaf in (*leaves, *(kwargs or {}).values()) if isinstance(leaf, cls)]
        if func not in _READING_NO_VALUES or held[0] is not args[0] or len(held) > 1:
            raise OODError(held[0].refusal if held else f"{func} reads what the 'needs' of a scorer does not name")
        with torch._C.DisableTorchFunctionSubclass():
            found = func(*args, **(kwargs or {}))
            if func is Tensor.__getitem__:
                found = found.as_subclass(cls)
                found.refusal = held[0].refusal
        return found


_READING_NO_VALUES = (
    *(Tensor.__getitem__, Tensor.__len__, Tensor.__repr__),
    *(torch.zeros_like, torch.ones_like, torch.full_like, torch.empty_like),
)


@dataclass(frozen=True)
class Outputs:
    """All that scorers see of a set of images: the network's outputs, float32 and memory-mapped from the store.

    Attributes:
        embeddings: [N, D], what the classifier is given.
        logits: [N, C]; C is 0 where no classifier was trained.
        labels: int64 [N]; -1 wherever a scorer must not know them.
        classes: Number of ID classes, also where some have no row.
        head: The linear classifier, None where there is none, or where the logits are not its outputs.
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
        """Yield consecutive parts of at most so many rows, so that a large set is never in memory as a whole."""
        for start in range(0, len(self), rows):
            yield self[start : start + rows]
            if self.release is not None:
                self.release(start, min(start + rows, len(self)))

    def declared_by(self, scorer: Scorer) -> Outputs:
        """Return what a scorer and those among its options name in `needs`, the only parts that it may read.

        Of what is left out, embeddings, logits and labels raise OODError when they are read; layers are {}, all else
        is None.
        """
        needs, none = scorer.all_needs(), torch.empty(len(self), 0)
        rows = {"embeddings": none, "logits": none, "labels": torch.full((len(self),), -1)}
        left_out: dict[str, Any] = {
            part: Undeclared.of(like, part, scorer.name) for part, like in rows.items() if part not in needs
        }
        left_out |= {} if "layers" in needs else {"layers": {}}
        left_out |= {part: None for part in ("head", "network") if part not in needs}
        left_out |= {} if "network" in needs else {"images": None}
        for part, of in (("held_out", self.held_out), ("known_ood", self.known_ood)):
            left_out[part] = of.declared_by(scorer) if of is not None and part in needs else None
        return replace(self, **left_out)

    def without_labels(self) -> Outputs:
        """Return the same outputs with every label -1, as `Score` objects get them."""
        return replace(self, labels=torch.full_like(self.labels, -1))
