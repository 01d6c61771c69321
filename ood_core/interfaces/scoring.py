"""Scorers, their fitted scores, and probes of layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import chain
from typing import ClassVar

from torch import Tensor

from ood_core.errors import OODError, suggest
from ood_core.interfaces.network import Network
from ood_core.interfaces.outputs import Outputs
from ood_core.interfaces.plugin import Plugin


@dataclass(frozen=True, kw_only=True)
class Probe(ABC):
    """Reads more of a network than embeddings and logits, while images pass through it.

    Its fields decide what it reads; equal probes of several scorers run once, in the same pass as the extraction.
    """

    @abstractmethod
    def layers(self, network: Network) -> tuple[str, ...]:
        """Return the names of the submodules whose outputs are wanted, as `named_modules` has them; may be none.

        Raises:
            OODError: The network has nothing that this probe can read.
        """

    @abstractmethod
    def read(self, network: Network, features: Tensor, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return named arrays, each [B, D'], every row for itself; no two different probes use one name.

        The network is in evaluation mode, without gradients; `maps` are the outputs of the `layers`, by name.
        """


class Score(ABC):
    """A fitted scorer: a small frozen dataclass, so that it is saved without pickle.

    Its fields are tensors, plain values, tuples, and further frozen dataclasses of this kind, such as other scores. Its
    plain values (an int rank, a float threshold) are printed in the report.

    A score that is plain tensor code can be exported as part of a graph. Branches on values and loops over blocks of
    rows need an alternative for all rows at once if `torch.compiler.is_compiling()`.
    """

    @abstractmethod
    def __call__(self, outputs: Outputs) -> Tensor:
        """Return float64 [N], higher = more out-of-distribution; each row independent of the others."""


@dataclass(frozen=True, kw_only=True)
class ScorerInfo:
    """Source, formula and costs of a scorer, for the table of all scorers (`ood list scorers`).

    Attributes:
        paper: Authors, year and title of the source.
        formula: The score in one line of plain Unicode: z logits, p softmax, f embedding, W and b the head.
        score: What scoring one row costs, in the letters N, C, D.
        fit: What fitting costs; "none" where nothing is fitted.
        notes: Where a default or the formula differs from the paper's or from OpenOOD's configuration; empty where
            they agree.
    """

    paper: str
    formula: str
    score: str
    fit: str = "none"
    notes: str = ""


NEEDS = ("embeddings", "logits", "head", "labels", "held_out", "known_ood", "layers", "network")
"""Fields of `Outputs` that a scorer may need in fitting, scoring, or both."""


@dataclass(frozen=True, kw_only=True)
class Scorer(Plugin):
    """Ranks images by how far they are from the in-distribution training data."""

    needs: ClassVar[frozenset[str]] = frozenset({"embeddings"})
    """Outputs that the scorer itself reads, out of `NEEDS`; checked when the recipe is planned, and before `fit`."""

    scores: ClassVar[type[Score]]
    """Class of the score that `fit` returns; a saved score is restored through it."""

    info: ClassVar[ScorerInfo | None] = None
    """Its row in the table of scorers; default: none."""

    @abstractmethod
    def fit(self, train: Outputs) -> Score:
        """Return the score for these in-distribution training outputs; reads nothing else, keeps no state."""

    def probe(self) -> Probe | None:
        """Return the probe of the `layers` that this scorer needs; default: none."""
        return None

    def memory(self, classes: int, dimensions: int) -> int:
        """Return the bytes of a fitted score beyond some rows a class, as of a matrix [D, D]; large ones are noted."""
        return 0

    def parts(self) -> tuple[Scorer, ...]:
        """Return this scorer and those among its options, recursively."""
        values = [getattr(self, option.name) for option in fields(self)]
        items = chain.from_iterable(value if isinstance(value, tuple) else (value,) for value in values)
        return (self, *(part for item in items if isinstance(item, Scorer) for part in item.parts()))

    def own_needs(self) -> frozenset[str]:
        """Return the outputs that this scorer itself reads with its options: `needs`, or a part of it."""
        return self.needs

    def all_needs(self) -> frozenset[str]:
        """Return the outputs that this scorer and those among its options read; OODError for one not in `NEEDS`."""
        needs: frozenset[str] = frozenset().union(*(part.own_needs() for part in self.parts()))
        for need in sorted(needs - set(NEEDS)):
            raise OODError(f"scorer '{self.name}' needs '{need}'.{suggest(need, NEEDS)}")
        return needs

    def probes(self) -> tuple[Probe, ...]:
        """Return the probes of this scorer and those among its options, each once."""
        return tuple(dict.fromkeys(probe for part in self.parts() if (probe := part.probe()) is not None))


@dataclass(frozen=True, kw_only=True)
class FormulaScorer(Scorer, Score):
    """A scorer that fits nothing: a formula of the outputs of each row and of the options.

    It is its own fitted score: `fit` returns the scorer, and options are saved as the fields of a score are.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.scores = cls

    @abstractmethod
    def score(self, outputs: Outputs) -> Tensor:
        """Return float64 [N], higher = more out-of-distribution; each row independent of the others."""

    def fit(self, train: Outputs) -> Score:
        """Return the scorer itself; an override may check the options against the training outputs."""
        return self

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the score [N]."""
        return self.score(outputs)
