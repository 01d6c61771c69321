"""Carries out a plan: decides which of the missing stages are ready, and makes the table from what they record.

Where torchrun has started several processes, the first one does as if it were alone and broadcasts the keys of the next
training or extraction, in which the others take part.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing

from pluggy import HookRelay

from ood_core.pipeline import dispatch
from ood_core.pipeline.dispatch import JobResult
from ood_core.plugins import hook_manager
from ood_core.records.results import Failure, Record, ResultRow, Results
from ood_core.records.stages import MeasureStage, Plan, Stage, job_key
from ood_core.run.executors import Executor, InProcess, Job
from ood_core.runtime import distributed
from ood_core.store.store import Store


def run(plan: Plan, store: Store, hooks: HookRelay | None = None, executor: Executor | None = None) -> Results:
    """Carry out a plan; `Plan.check` should have been called before if anything is missing.

    A stage that fails takes down what needs it, nothing else: it is among the failures of the results, and the rows
    that need it are missing. The error is raised only if no row is left.

    Args:
        plan: Stages and rows.
        store: Where results are found and filed.
        hooks: Lifecycle hooks to notify, `Plugins.hook` (default: none).
        executor: Where missing stages are carried out (default: one after another in this process).

    Raises:
        OODError: Nothing could be measured, for a reason that the user can mend.
    """
    begun = time.monotonic()
    hooks = hooks or hook_manager().hook
    todo = jobs(plan, store)
    hooks.ood_before_run(plan=plan)
    missing = {stage.key for job in todo for stage in job.stages}
    records = {}
    for stage in plan.stages:
        if stage.key not in missing and (facts := store.facts(stage)) is not None:
            hooks.ood_before_stage(stage=stage, stored=True)
            hooks.ood_after_stage(stage=stage, facts=facts)
            records[stage.key] = Record(stage, True, facts)
    with closing(executor or InProcess(store, hooks)) as opened:
        carried_out, failures = _Schedule(todo, opened).run()
    for stage in plan.stages:
        if stage.key not in records and (facts := store.facts(stage)) is not None:
            records[stage.key] = Record(stage, stage.key not in carried_out, facts)
    whole = [row for row in plan.rows if all(stage.key in records for stage in _reported(row.measure))]
    rows = tuple(ResultRow.of(row, records[row.measure.key].facts) for row in whole)
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


def _reported(measure: MeasureStage) -> Iterator[Stage]:
    """Yield a measurement, and the stages whose files are read for its reports."""
    yield measure
    for scores in measure.inputs:
        yield scores
        yield scores.outputs.base
    yield measure.fit.train.base


def jobs(plan: Plan, store: Store) -> list[Job]:
    """Return the stages that are not in the store, or damaged, in jobs: a training, a pass, all of one fitted scorer.

    All stages count, whatever became of those behind them: a report reads outputs and scores, and a detector is made of
    trainings and fits.
    """
    found: dict[str, list[Stage]] = {}
    for stage in plan.stages:
        if store.facts(stage) is None:
            found.setdefault(job_key(stage), []).append(stage)
    return [Job(tuple(stages)) for stages in found.values()]


class _Schedule:
    """Submits jobs to an executor as soon as their inputs are done, and leaves out what needs a stage that failed."""

    def __init__(self, todo: Sequence[Job], executor: Executor) -> None:
        self.waiting, self.executor = list(todo), executor
        self.open = {stage.key for job in todo for stage in job.stages}
        """Keys of the stages that are neither done nor failed."""
        self.running = 0
        self.carried_out: set[str] = set()
        self.failures: list[Failure] = []
        self.lost: set[str] = set()

    def run(self) -> tuple[set[str], tuple[Failure, ...]]:
        """Return the keys of the stages that were carried out, and the failures."""
        while self.waiting or self.running:
            self._submit_ready()
            if self.running:
                self._take(*self.executor.next_result())
        return self.carried_out, tuple(self.failures)

    def _submit_ready(self) -> None:
        for job in list(self.waiting):
            if not self.executor.has_room():
                return
            if job.needs & self.open:
                continue
            self.waiting.remove(job)
            if left := self._without_lost(job.stages):
                self.running += 1
                self.executor.submit(Job(left))

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

    def _take(self, job: Job, result: JobResult) -> None:
        self.running -= 1
        self.failures += result.failures
        self.carried_out |= set(result.carried_out)
        self.lost |= {failure.stage.key for failure in result.failures}
        self.open -= self.lost | set(result.finished)
        if left := self._without_lost([stage for stage in job.stages if stage.key in self.open]):
            self.waiting.insert(0, Job(left))  # of a process that died before it came to them
