"""What stages record: one frozen dataclass for each kind, kept as JSON in the store."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError


@dataclass(frozen=True, kw_only=True)
class StageFacts(Mapping[str, Any]):
    """What any stage records; also a mapping of the fields, without those that are left at a default of None.

    Attributes:
        peak_memory_mb: Of the process, in MiB.
        peak_gpu_memory_mb: In MiB; None without a GPU.
        alike: `cost_key`, which stages have in common that cost the same for an image.
        work: Number of images that it went through, each epoch counted.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    stage: str
    key: str
    seconds: float
    threads: int
    peak_memory_mb: float
    peak_gpu_memory_mb: float | None = None
    alike: str
    work: int

    def __getitem__(self, name: str) -> Any:
        if name not in set(self):
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        for field in fields(self):
            if field.default is MISSING or getattr(self, field.name) is not None:
                yield field.name

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True, kw_only=True)
class TrainFacts(StageFacts):
    """What a training records.

    Attributes:
        waiting: Share of the time spent waiting for images.
        outputs: Of the linear classifier; None if there is none.
        epochs: Mean metrics of each epoch.
        skipped: Errors of broken pictures, for which others stood in.
        pictures: Files of the pictures for the report, by title; None where the weights are sharded.
        errors: Whether the state that shows the errors of masked patches is kept; earlier stores do not say.
    """

    steps: int
    images_per_second: float
    waiting: float
    parameters: int
    outputs: int | None
    device: str
    processes: int
    precision: str
    epochs: list[dict[str, Any]]
    skipped: list[str]
    pictures: dict[str, str] | None = None
    errors: bool = False


@dataclass(frozen=True, kw_only=True)
class ExtractFacts(StageFacts):
    """What an extraction records.

    Attributes:
        images: Number of images that could be read.
        skipped: Errors of broken pictures, which are left out.
        dimensions: Of the embeddings, or of all that a probe reads.
        logits: Whether there are any; None for a probe.
        head: Whether a linear layer makes the logits of the embeddings; None for a probe.
    """

    images: int
    skipped: list[str]
    images_per_second: float
    dimensions: int
    logits: bool | None = None
    head: bool | None = None


@dataclass(frozen=True, kw_only=True)
class FitFacts(StageFacts):
    """What a fit records: the plain values of the score, such as a rank."""

    fitted: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ScoreFacts(StageFacts):
    """What scoring records: the number of images."""

    images: int


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The numbers of one line of the result table; rates in [0, 1], None if not available.

    Attributes:
        duplicates_test: OOD images that are also ID test images.
        duplicates_train: OOD images that are also ID training images.
        images: Digest of the measured images, pixel for pixel and in order: rows that have it in common are paired.
    """

    id_images: int
    ood_images: int
    auroc: float
    fpr95: float
    fpr95_ood_recall: float
    aupr_in: float
    aupr_out: float
    aupr_in_trapezoid: float
    aupr_out_trapezoid: float
    ties: float
    duplicates_test: int
    duplicates_train: int
    id_accuracy: float | None
    ece: float | None
    threshold: float | None = None
    id_accepted: float | None = None
    ood_accepted: float | None = None
    auroc_low: float | None = None
    auroc_high: float | None = None
    fpr95_low: float | None = None
    fpr95_high: float | None = None
    aupr_in_low: float | None = None
    aupr_in_high: float | None = None
    aupr_out_low: float | None = None
    aupr_out_high: float | None = None
    images: str = ""


@dataclass(frozen=True, kw_only=True)
class MeasureFacts(Measurement, StageFacts):
    """What a measurement records."""


FACTS: dict[str, type[StageFacts]] = {
    "train": TrainFacts,
    "extract": ExtractFacts,
    "fit": FitFacts,
    "score": ScoreFacts,
    "measure": MeasureFacts,
}
"""By the kind of stage."""


@cache
def _adapter(kind: str) -> TypeAdapter[StageFacts]:
    return TypeAdapter(FACTS[kind])


def read_facts(kind: str, entries: Mapping[str, Any]) -> StageFacts:
    """Return the facts of a stage of this kind, from the entries of its JSON.

    Raises:
        ValueError: A field is missing, unknown or of another type.
    """
    try:
        return _adapter(kind).validate_json(json.dumps(entries))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
