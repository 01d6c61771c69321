"""Results of a run: measured rows, what each stage recorded, and failures."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields

from ood_core.errors import OODError, listed, one_line
from ood_core.records.facts import MeasureFacts, Measurement, StageFacts
from ood_core.records.plan import Row, RowKey
from ood_core.records.stages import Stage
from ood_core.runtime.plugin_errors import PluginError, full_traceback, named


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
    """A stage that failed, and its traceback unless the user can mend it; what needs the stage was left out."""

    stage: Stage
    message: str
    error: Exception = field(compare=False, repr=False)
    traceback: str = field(default="", compare=False, repr=False)

    @classmethod
    def of(cls, stage: Stage, error: Exception) -> Failure:
        """Return the failure of a stage by an error."""
        if isinstance(error, OODError):
            text = one_line(error)
            return cls(stage, text, error, full_traceback(error) if isinstance(error, PluginError) else "")
        return cls(stage, f"{stage}: {named(error)}", error, full_traceback(error))

    @property
    def reason(self) -> str:
        """The message without the stage and without numbers, by which failures of one cause differ."""
        return re.sub(r"\d+", "", self.message.removeprefix(f"{self.stage}: "))


@dataclass(frozen=True)
class FailureGroup:
    """Failures for one reason, such as those of one scorer on several image sets; at least one."""

    failures: tuple[Failure, ...]

    @property
    def message(self) -> str:
        """The message of the first one, with the other stages."""
        first, *others = self.failures
        if not others:
            return first.message
        names = listed(list(dict.fromkeys(str(failure.stage) for failure in others)), most=3)
        return f"{first.message}; {len(others)} more stage{'s' * (len(others) > 1)} failed alike: {names}"

    @property
    def traceback(self) -> str:
        """The traceback of the first one, if it has one."""
        return self.failures[0].traceback


@dataclass(frozen=True)
class Results:
    """What a run found: without the rows that need a stage that failed."""

    rows: tuple[ResultRow, ...]
    records: tuple[Record, ...]
    seconds: float
    failures: tuple[Failure, ...] = ()

    @property
    def failure_groups(self) -> tuple[FailureGroup, ...]:
        """The failures, those for one reason together."""
        groups: dict[str, list[Failure]] = {}
        for failure in self.failures:
            groups.setdefault(failure.reason, []).append(failure)
        return tuple(FailureGroup(tuple(group)) for group in groups.values())
