"""The content of a run's reports. It is stored in the run's folder, so that no report needs the store."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ood_core.records.plan import Baseline
from ood_core.records.published import Table
from ood_core.records.results import ResultRow

KEY = "key"
"""Metadata of a field that has another name in report.json."""


@dataclass(frozen=True)
class ClassRowKey:
    """Key of the rows of classes.csv and accepted.csv, without the class."""

    variant: str
    case: str
    draw: int
    seed: int
    scorer: str
    id_set: str
    ood_set: str

    @staticmethod
    def of(row: object) -> ClassRowKey:
        """Return the key of a row, planned or measured, or of what belongs to one."""
        return ClassRowKey(*(getattr(row, of_key.name) for of_key in fields(ClassRowKey)))


@dataclass(frozen=True)
class AcceptedPair(ClassRowKey):
    """Number of the images of an OOD class that are accepted, as by FPR@95, and predicted to be of an ID class."""

    ood_class: str
    id_class: str
    accepted: int
    images: int


@dataclass(frozen=True)
class ClassRow(ClassRowKey):
    """Separation of an OOD class from all ID test images; accepted when 95 % of the ID test images are."""

    ood_class: str
    images: int
    accepted: int
    auroc: float


@dataclass(frozen=True)
class Picture:
    """A picture of a stage, with its path relative to the report; the legend says what its rows are, or is ""."""

    title: str
    file: str
    legend: str = ""


@dataclass(frozen=True, eq=False)
class RowScores:
    """The scores of a row of the table, float64; higher means more out-of-distribution."""

    id_scores: NDArray[np.float64] = field(metadata={KEY: "inside"})
    ood_scores: NDArray[np.float64] = field(metadata={KEY: "outside"})


@dataclass(frozen=True)
class Cost:
    """The cost of a stage, or of several: seconds, images per second, and peaks of memory in MiB."""

    seconds: float
    speed: float | None
    memory: float | None
    gpu_memory: float | None


@dataclass(frozen=True)
class StageRecord:
    """A stage that was carried out, or was stored already; its seed is None if none decides its result."""

    kind: str
    title: str
    key: str
    seed: int | None
    variants: tuple[str, ...]
    stored: bool
    facts: dict[str, Any]

    @property
    def cost(self) -> Cost:
        """Its cost when it was carried out."""
        seconds, speed = float(self.facts.get("seconds", 0)), self.facts.get("images_per_second")
        if self.kind == "score" and seconds:
            speed = self.facts["images"] / seconds
        return Cost(seconds, speed, self.facts.get("peak_memory_mb"), self.facts.get("peak_gpu_memory_mb"))


@dataclass(frozen=True)
class FailedStage:
    """A stage that failed, or several for one reason, and the variants that lack rows for it.

    Attributes:
        traceback: File with the traceback, relative to the report; "" for a user's mistake.
    """

    title: str
    variants: tuple[str, ...]
    message: str
    traceback: str = ""


@dataclass(frozen=True)
class GalleryImage:
    """An image of the gallery: its file relative to the report, its own class or "", its score."""

    file: str
    label: str
    score: float


@dataclass(frozen=True)
class GalleryRow:
    """Images of one end of a row's scores.

    Attributes:
        row: Index into `ReportData.rows`.
        what: "most ID-like OOD", "most OOD-like ID", "most typical ID" or "most typical OOD".
    """

    row: int
    what: str
    images: tuple[GalleryImage, ...]


@dataclass(frozen=True)
class EmbeddingPoints:
    """The points of one image set on a map, float32 [N, 2], and the class of each, or "".

    Attributes:
        images: Number of images in the set, of which the points are some; 0 in reports that did not say.
    """

    name: str
    is_id: bool = field(metadata={KEY: "inside"})
    points: NDArray[np.float32]
    labels: tuple[str, ...]
    images: int = 0


@dataclass(frozen=True)
class EmbeddingMap:
    """Embeddings of one network in two dimensions."""

    variant: str
    case: str
    seed: int
    sets: tuple[EmbeddingPoints, ...]


@dataclass(frozen=True)
class ReportData:
    """The content of the reports of a run.

    Attributes:
        started: UTC, ISO 8601, to the second.
        coordinates: For each variant its value on each axis that is varied.
        averaged: Whether the mean over the cases of the protocol is meaningful.
        scores: Of each of `rows`; rows of one ID set share its array.
    """

    name: str
    started: str
    rows: tuple[ResultRow, ...]
    scores: tuple[RowScores, ...]
    coordinates: dict[str, dict[str, str]]
    baseline: Baseline
    averaged: bool
    notes: tuple[str, ...]
    failures: tuple[FailedStage, ...]
    stages: tuple[StageRecord, ...]
    accepted: tuple[AcceptedPair, ...]
    resolved: dict[str, Any]
    versions: dict[str, str]
    machine: dict[str, str]
    seconds: float
    classes: tuple[ClassRow, ...] = ()
    pictures: tuple[Picture, ...] = ()
    gallery: tuple[GalleryRow, ...] = ()
    maps: tuple[EmbeddingMap, ...] = ()
    published: tuple[Table, ...] = ()

    @property
    def work(self) -> str:
        """Numbers of stages that were carried out, and of those in the store: "trained 9, extracted 36, reused 0"."""
        found = Counter("reused" if stage.stored else stage.kind for stage in self.stages)
        return f"trained {found['train']}, extracted {found['extract']}, reused {found['reused']}"

    @property
    def missing(self) -> tuple[str, ...]:
        """Variants that lack rows because a stage failed, in the order of their failures."""
        return tuple(dict.fromkeys(variant for failure in self.failures for variant in failure.variants))
