"""Outputs after a step that shapes them, for the scorer that is to see these in place of the network's own.

A step is a `Shape`: from outputs to outputs, every row for itself. What is scored is the energy at T = 1, as in all the
papers of this package, or what another scorer says of the shaped outputs. That other scorer is fitted on the shaped
training outputs, which are made chunk by chunk, so that a training set of any size passes through.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from dataclasses import fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from ood_core.interfaces import Head, Outputs, Score, Scorer

_LOG = logging.getLogger(__name__)
_LAZY = ("embeddings", "logits")
_UNSHAPED = frozenset({"layers", "network"})


class Shape(ABC):
    """A fitted step, a frozen dataclass like a score."""

    @abstractmethod
    def __call__(self, outputs: Outputs) -> Outputs:
        """Return embeddings, logits and head after the step, in float64; each row for itself."""


class ShapedOutputs(Outputs):
    """Outputs that a step changes at the moment they are read.

    `chunks()` and rows of it are shaped one by one. Only who asks for all embeddings or logits has them in memory.
    """

    source: Outputs | None = None
    shape: Shape

    @classmethod
    def of(cls, source: Outputs, shape: Shape) -> Self:
        """Return the outputs `shape` makes of `source`, with nothing computed yet."""
        lazy = cls.__new__(cls)
        known = {field.name: getattr(source, field.name) for field in fields(source) if field.name not in _LAZY}
        known |= {"layers": {}, "network": None, "images": None, "source": source, "shape": shape}
        for name in ("held_out", "known_ood"):
            known[name] = None if known[name] is None else cls.of(known[name], shape)
        for name, value in known.items():
            object.__setattr__(lazy, name, value)
        object.__setattr__(lazy, "head", shape(source[:0]).head)
        return lazy

    def __getattr__(self, name: str) -> Any:
        """Return all embeddings or logits, float32 as they come from the store; computed at the first call."""
        if name not in _LAZY or self.source is None:
            raise AttributeError(name)
        whole = torch.cat([getattr(part, name).float() for part in self.chunks()])
        object.__setattr__(self, name, whole)
        return whole

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice | Tensor) -> Outputs:
        # `replace` on shaped outputs makes ordinary ones, without a source
        return super().__getitem__(rows) if self.source is None else self.shape(self.source[rows])

    def without_labels(self) -> Outputs:
        """Return the same outputs with every label -1, still to be computed."""
        if self.source is None:
            return super().without_labels()
        return type(self).of(self.source.without_labels(), self.shape)


def reshaped(outputs: Outputs, embeddings: Tensor, head: Head) -> Outputs:
    """Return outputs with these embeddings, and the logits that the head gives them."""
    logits = embeddings @ head.weight.double().T + head.bias.double()
    nothing: dict[str, Any] = {"layers": {}, "held_out": None, "known_ood": None, "network": None, "images": None}
    return replace(outputs, embeddings=embeddings, logits=logits, head=head, **nothing)


def fit_shaped(scorer: Scorer | None, shape: Shape, train: Outputs) -> Score | None:
    """Return the other scorer fitted on the shaped training outputs; None stands for the energy."""
    return None if scorer is None else scorer.fit(ShapedOutputs.of(train, shape))


def refuse_unshaped(scorer: Scorer | None) -> None:
    """Raise ValueError for a scorer of what no step shapes."""
    unshaped = sorted(_UNSHAPED & scorer.all_needs()) if scorer is not None else []
    if scorer is not None and unshaped:
        raise ValueError(f"score '{scorer.name}' reads {' and '.join(unshaped)}, where only embeddings are shaped")


def head_of(train: Outputs) -> Head:
    """Return the classifier, which `needs` names."""
    assert train.head is not None
    return train.head


def warn_of_signs(train: Outputs, scorer: str) -> None:
    """Log a warning where embeddings can be negative, as after layer normalisation: sums of them cancel out."""
    if (train[:1024].embeddings < 0).any():
        _LOG.warning("scorer '%s' was made for embeddings after a ReLU, and some of these are negative", scorer)
