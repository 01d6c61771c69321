"""Carries out a plan: decides which of the missing stages are ready, and makes the table from what they record.

Where torchrun has started several processes, the first one does as if it were alone; it tells the others which training
or extraction comes next, and they take part in it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import fields
from typing import Any

from pluggy import HookRelay

from ood_core.interfaces import StageFacts
from ood_core.pipeline import dispatch
from ood_core.plugins import hook_manager
from ood_core.records.results import Failure, Record, ResultRow, Results
from ood_core.records.stages import ExtractStage, FitStage, MeasureStage, Plan, Row, Stage, TrainStage
from ood_core.run.executors import Executor, InProcess, Job, Outcome
from ood_core.runtime import distributed
from ood_core.store.store import Store


def run(plan: Plan, store: Store, hooks: HookRelay | None = None, executor: Executor | None = None) -> Results:
    """Carry out a plan; `Plan.check` should have been called before if anything is missing.

    A stage that fails takes down what needs it, nothing else: it is among the failures of the results, and the rows
    that need it are missing. The error is raised only if no row is left.

    Args:
        plan: What to do.
        store: Where results are found and filed.
        hooks: Lifecycle hooks to notify, `Plugins.hook` (default: none).
        executor: Where missing stages are carried out; by default one after another in this process.

    Raises:
        OODError: Nothing could be measured, for a reason that the user can mend.
    """
    begun = time.monotonic()
    hooks = hooks or hook_manager().hook
    todo = jobs(plan, store)
    hooks.ood_before_run(plan=plan)
    lacking = {stage.key for job in todo for stage in job.stages}
    records = {stage.key: _stored(stage, store, hooks) for stage in plan.stages if stage.key not in lacking}
    with closing(executor or InProcess(store, hooks)) as at_work:
        carried_out, failures = _Schedule(todo, at_work).work()
    for stage in plan.stages:
        if stage.key not in records and (facts := store.facts(stage)) is not None:
            records[stage.key] = Record(stage, stage.key not in carried_out, facts)
    whole = [row for row in plan.rows if all(stage.key in records for stage in _reported(row.measure))]
    rows = tuple(_row(row, records[row.measure.key].facts) for row in whole)
    ordered = tuple(records[stage.key] for stage in plan.stages if stage.key in records)
    results = Results(rows, ordered, time.monotonic() - begun, failures)
    hooks.ood_after_run(plan=plan, results=results)
    if not rows:
        raise failures[0].error
    distributed.broadcast(())
    return results


def follow(plan: Plan, store: Store) -> None:
    """Take part, in every process but the first, in the stages that `run` shares out; return when it is done."""
    stages = {stage.key: stage for stage in plan.stages}
    while keys := distributed.broadcast(()):
        dispatch.follow(keys, stages, store)


def missing(plan: Plan, store: Store) -> set[str]:
    """Return the keys of the stages to carry out: those that are not in the store, or damaged.

    All stages count, whatever became of those behind them: a report reads outputs and scores, and a detector is made of
    trainings and fits.
    """
    return {stage.key for stage in plan.stages if store.facts(stage) is None}


def _reported(measure: MeasureStage) -> Iterator[Stage]:
    """Yield a measurement, and the stages whose files are read for its reports."""
    yield measure
    for scores in measure.inputs:
        yield scores
        yield scores.outputs.base
    yield measure.fit.train.base


def jobs(plan: Plan, store: Store) -> list[Job]:
    """Return what is to be done in pieces for one process: a training, a pass over images, all of one fitted scorer."""
    needed = missing(plan, store)
    pieces: dict[Any, list[Stage]] = {}
    for stage in plan.stages:
        if stage.key in needed:
            pieces.setdefault(_piece(stage), []).append(stage)
    return [Job(tuple(stages)) for stages in pieces.values()]


def _piece(stage: Stage) -> Any:
    if isinstance(stage, ExtractStage):
        return stage.passage
    return stage.key if isinstance(stage, (TrainStage, FitStage)) else stage.fit.key


def _stored(stage: Stage, store: Store, hooks: HookRelay) -> Record:
    facts = store.facts(stage)
    assert facts is not None, "it was found in the store"
    hooks.ood_before_stage(stage=stage, stored=True)
    hooks.ood_after_stage(stage=stage, facts=facts)
    return Record(stage, True, facts)


def _row(row: Row, facts: StageFacts) -> ResultRow:
    numbers = {field.name: facts[field.name] for field in fields(ResultRow) if field.name in facts}
    return ResultRow(
        variant=row.variant,
        case=row.case,
        draw=row.draw,
        seed=row.seed,
        scorer=row.scorer,
        spectrum=row.measure.spectrum,
        id_set=row.id_set,
        ood_set=row.ood_set,
        group=row.group,
        **numbers,
    )


class _Schedule:
    """Hands jobs to an executor as soon as what they need is done, and leaves out what needs a stage that failed."""

    def __init__(self, todo: Sequence[Job], executor: Executor) -> None:
        self.waiting, self.executor = list(todo), executor
        self.open = {stage.key for job in todo for stage in job.stages}
        """Keys of the stages that are neither done nor failed."""
        self.at_work = 0
        self.carried_out: set[str] = set()
        self.failures: list[Failure] = []
        self.lost: set[str] = set()

    def work(self) -> tuple[set[str], tuple[Failure, ...]]:
        """Return what was carried out, and what failed."""
        while self.waiting or self.at_work:
            self._begin_what_is_ready()
            if self.at_work:
                self._take(self.executor.outcome())
        return self.carried_out, tuple(self.failures)

    def _begin_what_is_ready(self) -> None:
        for job in list(self.waiting):
            if not self.executor.has_room():
                return
            if job.needs & self.open:
                continue
            self.waiting.remove(job)
            left = self._without_lost(job.stages)
            if left:
                self.at_work += 1
                self.executor.begin(Job(left))

    def _without_lost(self, stages: Sequence[Stage]) -> tuple[Stage, ...]:
        """Return the stages without those that need a failed one, directly or not; these are lost too."""
        left = []
        for stage in stages:
            if any(earlier.key in self.lost for earlier in stage.inputs):
                self.lost.add(stage.key)
                self.open.discard(stage.key)
            else:
                left.append(stage)
        return tuple(left)

    def _take(self, outcome: Outcome) -> None:
        self.at_work -= 1
        done = outcome.done
        self.failures += done.failures
        self.carried_out |= set(done.carried_out)
        self.lost |= {failure.stage.key for failure in done.failures}
        self.open -= self.lost | set(done.finished)
        left = self._without_lost([stage for stage in outcome.job.stages if stage.key in self.open])
        if left:  # of a process that died before it came to them
            self.waiting.insert(0, Job(left))
