"""Carries out a plan: decides which of the missing stages are ready, and makes the table from what they record.

Where torchrun has started several processes, the first one does as if it were alone and broadcasts the keys of the next
training or extraction, in which the others take part.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing

from pluggy import HookRelay

from ood_core.plugins import hook_manager
from ood_core.records.plan import Plan
from ood_core.records.results import Failure, Record, ResultRow, Results
from ood_core.records.stages import MeasureStage, Stage, job_key
from ood_core.run.executors import Executor, InProcess, Job
from ood_core.runtime import distributed
from ood_core.store.store import Store


def run(plan: Plan, store: Store, hooks: HookRelay | None = None, executor: Executor | None = None) -> Results:
    """Carry out a plan as `execute` does, and raise the first error if nothing could be measured.

    Raises:
        OODError: Nothing could be measured, for a reason that the user can mend.
    """
    results = execute(plan, store, hooks, executor)
    if not results.rows:
        raise results.failures[0].error
    return results


def execute(plan: Plan, store: Store, hooks: HookRelay | None = None, executor: Executor | None = None) -> Results:
    """Carry out a plan; `Plan.check` should have been called before if anything is missing.

    A stage that fails takes down what needs it, nothing else: it is among the failures of the results, and the rows
    that need it are missing. The error of a full disk is raised at once.

    Args:
        plan: Its missing stages are carried out.
        store: Holds the results of finished stages.
        hooks: `Plugins.hook`, to notify (default: none).
        executor: Carries out the jobs (default: one after another in this process).

    Raises:
        DiskFullError: The store cannot be written; what is finished is in it.
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
        carried_out, failures = _carry_out(todo, opened)
    for stage in plan.stages:
        if stage.key not in records and (facts := store.facts(stage)) is not None:
            records[stage.key] = Record(stage, stage.key not in carried_out, facts)
    whole = [row for row in plan.rows if all(stage.key in records for stage in _reported(row.measure))]
    rows = tuple(ResultRow.of(row, records[row.measure.key].facts) for row in whole)
    ordered = tuple(records[stage.key] for stage in plan.stages if stage.key in records)
    results = Results(rows, ordered, time.monotonic() - begun, failures)
    hooks.ood_after_run(plan=plan, results=results)
    distributed.broadcast(())
    return results


def _reported(measure: MeasureStage) -> list[Stage]:
    """Return a measurement, and the stages whose files are read for its reports."""
    return [measure, *measure.inputs, *(scores.outputs.base for scores in measure.inputs), measure.fit.train.base]


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


def _carry_out(todo: Sequence[Job], executor: Executor) -> tuple[set[str], tuple[Failure, ...]]:
    """Submit jobs as soon as their inputs are done, and leave out the stages that need a failed one.

    Return the keys of the stages that were carried out, and the failures.
    """
    waiting, running = list(todo), 0
    undecided = {stage.key for job in todo for stage in job.stages}  # neither done nor failed
    carried_out: set[str] = set()
    failures: list[Failure] = []
    lost: set[str] = set()

    def without_lost(stages: Sequence[Stage]) -> tuple[Stage, ...]:
        left = []
        for stage in stages:
            if any(earlier.key in lost for earlier in stage.inputs):
                lost.add(stage.key)
                undecided.discard(stage.key)
            else:
                left.append(stage)
        return tuple(left)

    while waiting or running:
        for job in list(waiting):
            if not executor.has_room():
                break
            if not job.needs & undecided:
                waiting.remove(job)
                if left := without_lost(job.stages):
                    running += 1
                    executor.submit(Job(left))
        if running:
            job, result = executor.next_result()
            running -= 1
            failures += result.failures
            carried_out |= set(result.carried_out)
            lost |= {failure.stage.key for failure in result.failures}
            undecided -= lost | set(result.finished)
            if left := without_lost([stage for stage in job.stages if stage.key in undecided]):
                waiting.insert(0, Job(left))  # of a process that died before it came to them
    return carried_out, tuple(failures)
