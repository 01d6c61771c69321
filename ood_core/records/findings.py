"""What one run found, as its reports show it: it lies whole in the run's folder, so that no report needs the store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ood_core.records.published import Table
from ood_core.records.results import ResultRow
from ood_core.records.stages import Baseline


@dataclass(frozen=True)
class WhichRow:
    """By what a row of the table is told from the others."""

    variant: str
    case: str
    draw: int
    seed: int
    scorer: str
    id_set: str
    ood_set: str


@dataclass(frozen=True)
class AcceptedPair(WhichRow):
    """How many images of an OOD class are accepted and taken for an ID class, at the threshold of FPR@95.

    Attributes:
        images: How many images the OOD class has.
    """

    ood_class: str
    id_class: str
    accepted: int
    images: int


@dataclass(frozen=True)
class ClassRow(WhichRow):
    """How well the images of one OOD class are told from all ID test images.

    Attributes:
        images: How many were measured.
        accepted: How many of them are accepted when 95 % of the ID test images are.
    """

    ood_class: str
    images: int
    accepted: int
    auroc: float


@dataclass(frozen=True)
class Picture:
    """A picture of the report.

    Attributes:
        title: What it shows, of which stage.
        file: Its path, as seen from the report.
    """

    title: str
    file: str


def work(stages: Iterable[tuple[str, bool]]) -> str:
    """Return what a run had to do: "trained 9, extracted 36, reused 0".

    Args:
        stages: The kind of each, and whether it was in the store already.
    """
    found = Counter("reused" if stored else kind for kind, stored in stages)
    return f"trained {found['train']}, extracted {found['extract']}, reused {found['reused']}"


@dataclass(frozen=True, eq=False)
class RowScores:
    """The scores that a row of the table was measured with, float64; higher means more out-of-distribution."""

    inside: NDArray[np.float64]
    outside: NDArray[np.float64]


@dataclass(frozen=True)
class StageRecord:
    """A stage that was carried out or found in the store.

    Attributes:
        kind: train, extract, fit, score or measure.
        title: What it is, in words.
        key: Under which it lies in the store.
        seed: None where there is none.
        variants: Whose it is; several share it.
        stored: Whether it was in the store already.
        facts: What it recorded: seconds, and what is particular to its kind.
    """

    kind: str
    title: str
    key: str
    seed: int | None
    variants: tuple[str, ...]
    stored: bool
    facts: dict[str, Any]


@dataclass(frozen=True)
class Failed:
    """A stage that failed, whose variants miss rows."""

    title: str
    variants: tuple[str, ...]
    message: str


@dataclass(frozen=True)
class Shown:
    """One image of the gallery: its file as seen from the report, its own class or "", its score."""

    file: str
    label: str
    score: float


@dataclass(frozen=True)
class Strip:
    """Images of one end of a row's scores.

    Attributes:
        row: Index of the row in `Findings.rows`.
        what: "most ID-like OOD", "most OOD-like ID", "most typical ID" or "most typical OOD".
    """

    row: int
    what: str
    images: tuple[Shown, ...]


@dataclass(frozen=True)
class MapSet:
    """The points of one image set on a map, float32 [N, 2], and each one's class, or "" where there is none."""

    name: str
    inside: bool
    points: NDArray[np.float32]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class EmbeddingMap:
    """Embeddings of one network in two dimensions."""

    variant: str
    case: str
    seed: int
    sets: tuple[MapSet, ...]


@dataclass(frozen=True)
class Findings:
    """All that the reports of a run show.

    Attributes:
        name: The recipe's.
        started: UTC, ISO 8601, to the second.
        coordinates: For each variant its value on each axis that is varied.
        averaged: Whether the mean over the cases of the protocol means something.
        notes: What a reader has to know beside the numbers.
        scores: For each of `rows`, what it was measured with; shared arrays where rows share an ID set.
        classes: How well each OOD class of each row is told from ID.
        machine: The hardware, in words: processor, cores, threads, memory, accelerator, system.
        published: Tables beside whose numbers those of the rows are put.
    """

    name: str
    started: str
    rows: tuple[ResultRow, ...]
    scores: tuple[RowScores, ...]
    coordinates: dict[str, dict[str, str]]
    baseline: Baseline
    averaged: bool
    notes: tuple[str, ...]
    failures: tuple[Failed, ...]
    stages: tuple[StageRecord, ...]
    accepted: tuple[AcceptedPair, ...]
    resolved: dict[str, Any]
    versions: dict[str, str]
    machine: dict[str, str]
    seconds: float
    classes: tuple[ClassRow, ...] = ()
    pictures: tuple[Picture, ...] = ()
    gallery: tuple[Strip, ...] = ()
    maps: tuple[EmbeddingMap, ...] = ()
    published: tuple[Table, ...] = ()

    @property
    def work(self) -> str:
        """How many stages were carried out, and how many were in the store: "trained 9, extracted 36, reused 0"."""
        return work((stage.kind, stage.stored) for stage in self.stages)

    @property
    def missing(self) -> tuple[str, ...]:
        """Variants that lack rows because a stage failed, in the order of their failures."""
        return tuple(dict.fromkeys(variant for failure in self.failures for variant in failure.variants))
