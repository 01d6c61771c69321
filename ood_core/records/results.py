"""Results of a run: measured rows, what each stage recorded, and failures."""

from __future__ import annotations

from dataclasses import dataclass, field

from ood_core.interfaces import StageFacts
from ood_core.records.stages import Stage


@dataclass(frozen=True)
class ResultRow:
    """One line of the table; rates are fractions in [0, 1], None where they cannot be had."""

    variant: str
    case: str
    draw: int
    seed: int
    scorer: str
    spectrum: str
    id_set: str
    ood_set: str
    group: str
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
    """A digest of the measured images, pixel for pixel and in order: rows that have it in common are paired."""


@dataclass(frozen=True)
class Record:
    """What a stage recorded, and whether it was in the store already."""

    stage: Stage
    stored: bool
    facts: StageFacts


@dataclass(frozen=True)
class Failure:
    """A stage that failed; what needs it was left out.

    Attributes:
        message: Why, in one line.
        error: What was raised. An OODError is a mistake that the user can mend; anything else keeps its traceback.
    """

    stage: Stage
    message: str
    error: Exception = field(compare=False, repr=False)


@dataclass(frozen=True)
class Results:
    """What a run found: without the rows that need a stage that failed."""

    rows: tuple[ResultRow, ...]
    records: tuple[Record, ...]
    seconds: float
    failures: tuple[Failure, ...] = ()
