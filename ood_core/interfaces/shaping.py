"""Scorers of shaped outputs: a step changes embeddings, the head or logits, and another scorer scores the result."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ood_core.interfaces.outputs import Head, Outputs
from ood_core.interfaces.scoring import Score, Scorer

_LOG = logging.getLogger(__name__)
_LAZY = ("embeddings", "logits")
_UNSHAPED = frozenset({"layers", "network"})


class Shaping:
    """A step between the network and a score; each row for itself, in float64."""

    def shape_embeddings(self, embeddings: Tensor) -> Tensor:
        """Return shaped embeddings [N, D]. Default: unchanged."""
        return embeddings

    def shape_logits(self, logits: Tensor, embeddings: Tensor) -> Tensor:
        """Return shaped logits [N, C], made of those that the head gives for shaped embeddings. Default: unchanged."""
        return logits


@dataclass(frozen=True, kw_only=True)
class ShapedScore(Shaping, Score):
    """Energy at T = 1 of shaped outputs, or another score of them.

    The score of a step that is fitted is a subclass, with the fitted values as further fields.
    """

    head: Head
    """The linear classifier that makes the logits of the shaped embeddings."""
    inner: Score | None = None
    """Another score, fitted to shaped training outputs; None is the energy."""

    def shape(self, outputs: Outputs) -> Outputs:
        """Return shaped embeddings, logits and the head, in float64; nothing else can be read of them."""
        embeddings = self.shape_embeddings(outputs.embeddings.double())
        logits = embeddings @ self.head.weight.double().T + self.head.bias.double()
        nothing: dict[str, Any] = {"layers": {}, "held_out": None, "known_ood": None, "network": None, "images": None}
        logits = self.shape_logits(logits, embeddings)
        return replace(outputs, embeddings=embeddings, logits=logits, head=self.head, **nothing)

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the score [N]."""
        shaped = self.shape(outputs)
        return -shaped.logits.logsumexp(1) if self.inner is None else self.inner(shaped)


@dataclass(frozen=True, kw_only=True)
class UnfittedShapedScore(ShapedScore):
    """The score of a step that depends on its options alone."""

    step: ShapedScorer
    """The scorer, without its inner one."""

    def shape_embeddings(self, embeddings: Tensor) -> Tensor:
        """Return the embeddings after the step."""
        return self.step.shape_embeddings(embeddings)

    def shape_logits(self, logits: Tensor, embeddings: Tensor) -> Tensor:
        """Return the logits after the step."""
        return self.step.shape_logits(logits, embeddings)


@dataclass(frozen=True, kw_only=True)
class ShapedScorer(Shaping, Scorer):
    """A scorer that shapes embeddings, the head or logits, and scores the result.

    A step that fits nothing overrides `shape_embeddings` or `shape_logits`. One that is fitted overrides `fit_shape`,
    and these methods in the subclass of `ShapedScore` that `fit_shape` returns and `scores` names.

    Attributes:
        score: Another scorer of the shaped outputs; default: the energy at T = 1.
    """

    needs = frozenset({"embeddings", "head"})
    scores: ClassVar[type[Score]] = UnfittedShapedScore

    after_relu: ClassVar[bool] = False
    """Whether the method is made for embeddings without negative entries; a warning is logged for others."""

    score: Scorer | None = None

    def __post_init__(self) -> None:
        if self.score is not None and (unshaped := sorted(_UNSHAPED & self.score.all_needs())):
            reads = " and ".join(unshaped)
            raise ValueError(f"score '{self.score.name}' reads {reads}, where only embeddings are shaped")

    def fit_shape(self, train: Outputs, head: Head) -> ShapedScore:
        """Return the fitted step, without an inner score. Default: a step that fits nothing."""
        return UnfittedShapedScore(head=head, step=replace(self, score=None))

    def fit(self, train: Outputs) -> ShapedScore:
        """Return the fitted step with the other scorer, which is fitted to shaped training outputs, chunk by chunk."""
        assert train.head is not None, "needs name it"
        if self.after_relu and (train[:1024].embeddings < 0).any():
            _LOG.warning("scorer '%s' was made for embeddings after a ReLU, and some of these are negative", self.name)
        step = self.fit_shape(train, train.head)
        return step if self.score is None else replace(step, inner=self.score.fit(ShapedOutputs.of(train, step.shape)))


class ShapedOutputs(Outputs):
    """Outputs that are shaped when they are read.

    `chunks()` and rows of it are shaped one by one, so that a training set of any size fits into memory; reading all
    embeddings or logits at once keeps them.
    """

    source: Outputs | None = None
    shape: Callable[[Outputs], Outputs]

    @classmethod
    def of(cls, source: Outputs, shape: Callable[[Outputs], Outputs]) -> Self:
        """Return the outputs `shape` makes of `source`, with nothing computed yet."""
        lazy = cls.__new__(cls)
        values = {field.name: getattr(source, field.name) for field in fields(source) if field.name not in _LAZY}
        values |= {"layers": {}, "network": None, "images": None, "source": source, "shape": shape}
        for name in ("held_out", "known_ood"):
            values[name] = None if values[name] is None else cls.of(values[name], shape)
        for name, value in values.items():
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
