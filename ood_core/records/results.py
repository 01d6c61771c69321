"""Results of a run: measured rows, what each stage recorded, and failures."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from ood_core.errors import OODError
from ood_core.records.facts import MeasureFacts, Measurement, StageFacts
from ood_core.records.plan import Row, RowKey
from ood_core.records.stages import Stage


@dataclass(frozen=True, kw_only=True)
class ResultRow(Measurement, RowKey):
    """One line of the result table: its key, then its numbers."""

    @classmethod
    def of(cls, row: Row, facts: StageFacts) -> ResultRow:
        """Return the row of a plan with what its measurement recorded."""
        assert isinstance(facts, MeasureFacts), "a row is measured by its last stage"
        numbers = {field.name: getattr(facts, field.name) for field in fields(Measurement)}
        return cls(**vars(row.key), **numbers)


@dataclass(frozen=True)
class Record:
    """What a stage recorded, and whether it was in the store already."""

    stage: Stage
    stored: bool
    facts: StageFacts


@dataclass(frozen=True)
class Failure:
    """A stage that failed; what needs it was left out. An error other than an OODError keeps its traceback."""

    stage: Stage
    message: str
    error: Exception = field(compare=False, repr=False)

    @classmethod
    def of(cls, stage: Stage, error: Exception) -> Failure:
        """Return the failure of a stage by an error."""
        text = " ".join(str(error).split())
        return cls(stage, text if isinstance(error, OODError) else f"{type(error).__name__}: {text}", error)


@dataclass(frozen=True)
class Results:
    """What a run found: without the rows that need a stage that failed."""

    rows: tuple[ResultRow, ...]
    records: tuple[Record, ...]
    seconds: float
    failures: tuple[Failure, ...] = ()
