"""Protocols: how one recipe becomes several cases, each with its own in-distribution and OOD images.

The default, multi-class, is one case: the sets as the recipe names them. docs/protocols.md explains all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Len

from ood_core.data.selection import Selection
from ood_core.errors import OODError, suggest
from ood_core.interfaces import NonNegativeInt, PositiveInt, Split
from ood_core.plan import superclasses

Names = tuple[str, ...]


@dataclass(frozen=True)
class Sets:
    """The image sets of one case: ID, OOD that scorers may know, and the OOD sets that measure with their groups."""

    inside: Selection
    known: tuple[Selection, ...]
    outside: tuple[tuple[str, Selection], ...]


@dataclass(frozen=True)
class Case:
    """One of the experiments of a protocol, in a column of the report; those of other random draws are averaged."""

    name: str
    sets: Sets
    draw: int = 0


@dataclass(frozen=True, kw_only=True)
class Protocol(ABC):
    """What is in turn in-distribution, and what is OOD. Fields are options, as in a plugin."""

    name: ClassVar[str]

    averaged: ClassVar[bool] = True
    """Whether the mean over the cases means something."""

    own_outside: ClassVar[bool] = True
    """Whether the protocol itself provides OOD images, so that a recipe need not name any."""

    @abstractmethod
    def cases(self, sets: Sets, class_names: Callable[[], Names]) -> Iterator[Case]:
        """Yield the cases of the sets that the recipe names; `class_names` returns those of the ID set.

        Raises:
            OODError: The options do not fit the classes.
        """


@dataclass(frozen=True, kw_only=True)
class MultiClass(Protocol):
    """All classes of the ID set are in-distribution; the OOD sets are those of the recipe."""

    name = "multi-class"
    own_outside = False

    def cases(self, sets: Sets, class_names: Callable[[], Names]) -> Iterator[Case]:
        """Yield the one case."""
        yield Case("", sets)


@dataclass(frozen=True, kw_only=True)
class OneClass(Protocol):
    """Each class in turn is in-distribution, the test images of all others are OOD (Ruff et al., 2018).

    One training for each class follows whatever the cases share. The OOD sets of the recipe come in addition.

    Attributes:
        classes: Which classes take a turn; None takes all.
        superclasses: Take the classes of each of these together: "cifar100" are the official ones, "csi" the lists that
            CSI and MOOD used. The images keep the labels of their own classes.
    """

    name = "one-class"
    classes: tuple[str | int, ...] | None = None
    superclasses: str | None = None

    def __post_init__(self) -> None:
        _require_once("classes", self.classes or ())

    def cases(self, sets: Sets, class_names: Callable[[], Names]) -> Iterator[Case]:
        """Yield a case for each class."""
        known = class_names()
        groups = superclasses.load(self.superclasses) if self.superclasses else {name: (name,) for name in known}
        for name in (name for classes in groups.values() for name in classes):
            _checked(name, known)
        turns = groups if self.classes is None else [_checked(str(name), tuple(groups)) for name in self.classes]
        for turn in turns:
            yield Case(turn, _split(sets, groups[turn], known, "rest"))


@dataclass(frozen=True, kw_only=True)
class Pairs(Protocol):
    """One class is in-distribution, one other is OOD: the near-distribution pairs of the paper's Table 8.

    Attributes:
        pairs: [ID class, OOD class] each. Pairs with the same ID class share its training.
    """

    name = "pairs"
    pairs: Annotated[tuple[tuple[str | int, ...], ...], Len(1)]

    def __post_init__(self) -> None:
        for pair in self.pairs:
            if len(pair) != 2:
                raise OODError(f"each of 'pairs' is [ID class, OOD class], not {list(pair)}")
        _require_once("pairs", self.pairs)

    def cases(self, sets: Sets, class_names: Callable[[], Names]) -> Iterator[Case]:
        """Yield a case for each pair."""
        known = class_names()
        for pair in self.pairs:
            inside, outside = (_checked(str(name), known) for name in pair)
            if inside == outside:
                raise OODError(f"the pair [{inside}, {outside}] has the same class twice")
            yield Case(f"{inside} / {outside}", _split(sets, (inside,), (inside, outside), "pair"))


@dataclass(frozen=True, kw_only=True)
class OpenSet(Protocol):
    """Some classes are known, all others are OOD, in several splits (Neal et al., 2018; OpenOOD's OSR benchmarks).

    Attributes:
        splits: The known classes of each split.
        known: Instead of `splits`: how many classes are known, drawn at random.
        draws: With `known`: how many splits are drawn.
        seed: With `known`: of the draws.
    """

    name = "open-set"
    splits: tuple[Annotated[tuple[str | int, ...], Len(1)], ...] = ()
    known: PositiveInt | None = None
    draws: PositiveInt = 5
    seed: NonNegativeInt = 0

    def __post_init__(self) -> None:
        if bool(self.splits) == (self.known is not None):
            raise OODError("give either 'splits' or 'known'")
        for split in self.splits:
            _require_once("splits", split)
        _require_once("splits", [frozenset(split) for split in self.splits])

    def cases(self, sets: Sets, class_names: Callable[[], Names]) -> Iterator[Case]:
        """Yield a case for each split."""
        names = class_names()
        for number, known in enumerate(self._splits(names)):
            if len(known) == len(names):
                raise OODError(f"split {number + 1} knows all {len(names)} classes; none is left to be OOD")
            yield Case(f"split {number + 1}", _split(sets, known, names, "open"))

    def _splits(self, names: Names) -> Iterator[Names]:
        for split in self.splits:
            yield tuple(_checked(str(name), names) for name in split)
        if self.known is not None:
            if self.known >= len(names):
                raise OODError(f"'known' is {self.known}, but the ID set has {len(names)} classes; one must be left")
            for draw in range(self.draws):
                order = np.random.RandomState([self.seed, draw]).permutation(len(names))[: self.known]
                yield tuple(names[label] for label in sorted(order))


@dataclass(frozen=True, kw_only=True)
class FewShot(Protocol):
    """A few images of each OOD class are known, drawn several times: the paper's Table 9 (Fort et al., 2021).

    For scorers that learn from known OOD images, such as few-shot-head. No image that is known measures.

    Attributes:
        shots: How many images of each class of each OOD set, one case for each number.
        draws: How many random draws of them; the report has mean and deviation.
        split: Of the OOD sets, from which the known images come. With "test" they are taken out of what measures.
    """

    name = "few-shot"
    averaged = False
    own_outside = False
    shots: Annotated[tuple[PositiveInt, ...], Len(1)]
    draws: PositiveInt = 3
    split: Split = "train"

    def __post_init__(self) -> None:
        _require_once("shots", self.shots)

    def cases(self, sets: Sets, class_names: Callable[[], Names]) -> Iterator[Case]:
        """Yield a case for each number of images and each draw."""
        for shots, draw in product(self.shots, range(self.draws)):
            known, outside = [], []
            for group, of in sets.outside:
                drawn = replace(of, split=self.split, limit=shots, draw=draw, name=f"{of.name} known")
                known.append(drawn)
                outside.append((group, replace(of, minus=(drawn,))))
            yield Case(f"{shots} a class", Sets(sets.inside, (*sets.known, *known), tuple(outside)), draw)


PROTOCOLS: dict[str, type[Protocol]] = {cls.name: cls for cls in (MultiClass, OneClass, Pairs, OpenSet, FewShot)}
"""What a recipe may write behind `protocol:`; they are part of the core, because they say what a result means."""


def _split(sets: Sets, inside: Names, of: Names, group: str) -> Sets:
    """Return the sets with these ID classes, and the others out of `of` as an OOD set of the same source."""
    others = tuple(name for name in of if name not in inside)
    if not others:
        raise OODError("no class is left to be OOD")
    own_name = inside[0] if len(inside) == 1 else f"{len(inside)} classes"
    other_name = others[0] if len(others) == 1 else f"other {len(others)} classes"
    outside = replace(sets.inside, classes=others, without=(), holdout=0.0, name=other_name)
    own = replace(sets.inside, classes=inside, without=(), name=own_name)
    return replace(sets, inside=own, outside=((group, outside), *sets.outside))


def _require_once(option: str, values: Sequence[object]) -> None:
    for number, value in enumerate(values):
        if value in values[:number]:
            shown = sorted(map(str, value)) if isinstance(value, frozenset) else value
            raise OODError(f"'{option}' has {shown} twice")


def _checked(name: str, known: Names) -> str:
    if name not in known:
        raise OODError(f"no class '{name}' in the ID set.{suggest(name, known)}")
    return name
