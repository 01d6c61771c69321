"""The content of a run's reports; the run's folder holds all of it, so that no report needs the store."""

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
    """Key of a row of the table, as it stands in accepted.csv and classes.csv."""

    variant: str
    case: str
    draw: int
    seed: int
    scorer: str
    id_set: str
    ood_set: str


@dataclass(frozen=True)
class AcceptedPair(WhichRow):
    """Number of images of an OOD class that are accepted as an ID class at the threshold of FPR@95, of all `images`."""

    ood_class: str
    id_class: str
    accepted: int
    images: int


@dataclass(frozen=True)
class ClassRow(WhichRow):
    """AUROC of one OOD class against all ID test images, and its images accepted at the threshold of FPR@95."""

    ood_class: str
    images: int
    accepted: int
    auroc: float


@dataclass(frozen=True)
class Picture:
    """A picture of the report: its title, and its path relative to the report."""

    title: str
    file: str


def work(stages: Iterable[tuple[str, bool]]) -> str:
    """Return a summary, "trained 9, extracted 36, reused 0", of the kinds of stages and whether each was stored."""
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
        key: Of the store.
        variants: Variants that use this stage.
        stored: Whether it was in the store already.
        facts: Its `StageFacts` in plain values.
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
    """A stage that failed, and the variants that lack rows for it."""

    title: str
    variants: tuple[str, ...]
    message: str


@dataclass(frozen=True)
class Shown:
    """One image of the gallery: its path relative to the report, its own class or "", its score."""

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
    """The points of one image set on a map, float32 [N, 2], and the class of each, "" if there is none."""

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
    """The content of a run's reports.

    Attributes:
        name: The recipe's.
        started: UTC, ISO 8601, to the second.
        scores: For each of `rows`; shared arrays where rows share an ID set.
        coordinates: For each variant its value on each axis that is varied.
        averaged: Whether the mean over the cases of the protocol means something.
        notes: Remarks that a reader of the numbers needs.
        machine: The hardware, in words: processor, cores, threads, memory, accelerator, system.
        published: Published tables to compare the rows with.
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
        """Number of stages that were carried out, and that were in the store: "trained 9, extracted 36, reused 0"."""
        return work((stage.kind, stage.stored) for stage in self.stages)

    @property
    def missing(self) -> tuple[str, ...]:
        """Variants that lack rows because a stage failed, in the order of their failures."""
        return tuple(dict.fromkeys(variant for failure in self.failures for variant in failure.variants))
