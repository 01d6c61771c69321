"""Carries out a plan: every stage that is not in the store, and the table from what they recorded.

Where several processes share the run, the first one does as if it were alone; it tells the others which training or
extraction comes next, and they take part in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import Any

import pluggy

from ood_core import extract, fit, measure, processes, score, train
from ood_core.errors import OODError
from ood_core.interfaces import StageFacts
from ood_core.stages import ExtractStage, Observer, Plan, Stage, TrainStage
from ood_core.store import Store


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
    """A stage that failed, and why, in one line; what needs it was left out."""

    stage: Stage
    message: str


@dataclass(frozen=True)
class Results:
    """What a run found: without the rows that need a stage that failed."""

    rows: tuple[ResultRow, ...]
    records: tuple[Record, ...]
    seconds: float
    failures: tuple[Failure, ...] = ()


def run(plan: Plan, store: Store) -> Results:
    """Carry out a plan; `Plan.check` should have been called before if anything is missing.

    Raises:
        OODError: A stage fails for a reason that the user can mend.
    """
    begun = time.monotonic()
    needed = missing(plan, store)
    hook = plan.plugins.hook
    hook.ood_before_run(plan=plan)
    records: dict[str, Record] = {}
    for stages in _groups(plan, needed, store):
        records |= {record.stage.key: record for record in _carry_out(stages, store, hook)}
    rows = tuple(
        ResultRow(
            variant=row.variant,
            case=row.case,
            draw=row.draw,
            seed=row.seed,
            scorer=row.scorer,
            spectrum=row.measure.spectrum,
            id_set=row.id_set,
            ood_set=row.ood_set,
            group=row.group,
            **_numbers(records[row.measure.key].facts),
        )
        for row in plan.rows
    )
    results = Results(rows, tuple(records.values()), time.monotonic() - begun)
    hook.ood_after_run(plan=plan, results=results)
    processes.told(())
    return results


def follow(plan: Plan, store: Store) -> None:
    """Take part, in every process but the first, in the stages that `run` shares out; return when it is done."""
    stages = {stage.key: stage for stage in plan.stages}
    while keys := processes.told(()):
        _together([stages[key] for key in keys], store, Observer(None, stages[keys[0]]))


def missing(plan: Plan, store: Store) -> set[str]:
    """Return the keys of the stages to carry out: results that are not stored, and what those need."""
    needed: set[str] = set()

    def visit(stage: Stage) -> None:
        if stage.key not in needed and store.facts(stage) is None:
            needed.add(stage.key)
            for earlier in stage.inputs:
                visit(earlier)

    for row in plan.rows:
        visit(row.measure)
    return needed


def _groups(plan: Plan, needed: set[str], store: Store) -> Iterator[list[Stage]]:
    """Yield the stages to go through in order; extractions that can share a pass over the images come together."""
    passes: dict[Any, list[Stage]] = {}
    for stage in plan.stages:
        if stage.key in needed or store.facts(stage) is not None:
            passes.setdefault(stage.passage if isinstance(stage, ExtractStage) else stage.key, []).append(stage)
    yield from passes.values()


def _carry_out(stages: Sequence[Stage], store: Store, hook: pluggy.HookRelay) -> Iterator[Record]:
    """Yield the records of stages that are carried out together; of some the facts may lie in the store already."""
    missing = [stage for stage in stages if store.facts(stage) is None]
    for stage in stages:
        if stage not in missing:
            hook.ood_before_stage(stage=stage, stored=True)
            yield _record(stage, True, store, hook)
    for stage in missing:
        hook.ood_before_stage(stage=stage, stored=False)
        stored = stage is missing[0] and not _execute(missing, store, Observer(hook, stage))
        yield _record(stage, stored, store, hook)


def _record(stage: Stage, stored: bool, store: Store, hook: pluggy.HookRelay) -> Record:
    facts = store.facts(stage)
    assert facts is not None, "a stage that was carried out is in the store"
    hook.ood_after_stage(stage=stage, facts=facts)
    return Record(stage, stored, facts)


def _execute(stages: Sequence[Stage], store: Store, observer: Observer) -> bool:
    """Carry out what another process has not done while this one waited; return whether there was anything to do."""
    stage, hook = observer.stage, observer.hook
    assert hook is not None, "the first process tells the hooks"
    try:
        with ExitStack() as stack:
            for locked in sorted(stages, key=lambda stage: stage.key):  # the same order everywhere: no deadlock
                stack.enter_context(store.lock(locked))
            left = [stage for stage in stages if store.facts(stage) is None]
            if left and isinstance(stage, (TrainStage, ExtractStage)):
                processes.told(tuple(stage.key for stage in left))
                _together(left, store, observer)
            elif left:
                _EXECUTE[stage.kind](stage, store, observer)
            return bool(left)
    except OODError as error:
        hook.ood_on_error(stage=stage, error=error)
        raise OODError(f"{stage}: {error}") from error
    except BaseException as error:
        error.add_note(f"This happened in the stage: {stage}")
        hook.ood_on_error(stage=stage, error=error)
        raise


def _together(stages: Sequence[Stage], store: Store, observer: Observer) -> None:
    """Carry out what all processes share: a training, or the extractions of one pass."""
    if isinstance(stages[0], TrainStage):
        train.execute(stages[0], store, observer)
    else:
        extract.execute([stage for stage in stages if isinstance(stage, ExtractStage)], store, observer)


_EXECUTE: dict[str, Callable[..., None]] = {
    "fit": fit.execute,
    "score": score.execute,
    "measure": measure.execute,
}


def _numbers(facts: StageFacts) -> dict[str, Any]:
    return {name: facts[name] for name in (field.name for field in fields(ResultRow)) if name in facts}
