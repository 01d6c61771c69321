"""Carries out the stages of a job in this process; stages that do not need a failed one go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from pluggy import HookRelay

from ood_core.errors import OODError
from ood_core.pipeline import extract, fit, measure, score, train
from ood_core.pipeline.events import Observer
from ood_core.plugins import hook_manager
from ood_core.records.results import Failure
from ood_core.records.stages import ExtractStage, FitStage, MeasureStage, ScoreStage, Stage, TrainStage
from ood_core.runtime import distributed, memory, torch_state
from ood_core.runtime.plugin_errors import RAISED, PluginError, named, plugin_of
from ood_core.store.files import DiskFullError
from ood_core.store.store import Store


@dataclass(frozen=True)
class JobResult:
    """The stages of a job that are done and those that failed."""

    finished: tuple[str, ...]
    """Keys of the stages whose results are in the store."""
    carried_out: tuple[str, ...]
    """Of these, the ones that were carried out here and not by another run meanwhile."""
    failures: tuple[Failure, ...]


def carry_out(stages: Sequence[Stage], store: Store, hooks: HookRelay, threads: Mapping[str, int]) -> JobResult:
    """Carry out stages of one `job_key`, each behind its inputs; a stage whose input fails here is left out.

    Where several processes share the run an error is raised instead: the others are in the midst of the same stage.
    A disk that is full is raised as well: the next stage would find it so.
    `threads` are the numbers of torch threads of single stages, by key (default: unchanged).
    """
    usual = torch.get_num_threads()
    carried_out: list[str] = []
    failures: list[Failure] = []
    lost: set[str] = set()
    # all extractions of a job are one pass over the images
    groups = [list(stages)] if isinstance(stages[0], ExtractStage) else [[stage] for stage in stages]
    for group in groups:
        ready = [stage for stage in group if not any(earlier.key in lost for earlier in stage.inputs)]
        lost |= {stage.key for stage in group if stage not in ready}
        if not ready:
            continue
        torch.set_num_threads(threads.get(group[0].key, usual))
        try:
            carried_out += _execute_group(ready, store, hooks)
        except DiskFullError as error:
            hooks.ood_on_error(stage=ready[0], error=error)
            raise
        except Exception as error:
            if distributed.world_size() > 1:
                raise
            if len(ready) > 1:
                groups += [[stage] for stage in ready]  # one probe may be at fault
                continue
            cause = error.__cause__ if isinstance(error, OODError) and error.__cause__ is not None else error
            hooks.ood_on_error(stage=ready[0], error=cause)
            failures.append(Failure.of(ready[0], error))
            lost.add(ready[0].key)
        finally:
            torch.set_num_threads(usual)
    finished = tuple(stage.key for stage in stages if stage.key not in lost)
    return JobResult(finished, tuple(carried_out), tuple(failures))


def follow(planned: Sequence[Stage], store: Store) -> None:
    """Take part, in every process but the first, in the planned stages that it shares out, until it is done."""
    stages = {stage.key: stage for stage in planned}
    while keys := distributed.broadcast(()):
        with torch_state.stage_state():
            _execute([stages[key] for key in keys], store, Observer(hook_manager().hook, stages[keys[0]]))


def _execute_group(group: Sequence[Stage], store: Store, hooks: HookRelay) -> list[str]:
    """Execute the stages that another process has not finished while this one waited; return their keys."""
    stage = group[0]
    hooks.ood_before_stage(stage=stage, stored=False)
    try:
        with ExitStack() as stack:
            for locked in sorted(group, key=lambda stage: stage.key):  # the same order everywhere: no deadlock
                stack.enter_context(store.lock(locked))
            left = [stage for stage in group if store.facts(stage) is None]
            if left:
                memory.reset_peaks()
                with torch_state.stage_state():
                    if isinstance(stage, (TrainStage, ExtractStage)):  # all processes take part in these
                        distributed.broadcast(tuple(stage.key for stage in left))
                    _execute(left, store, Observer(hooks, stage))
    except DiskFullError:
        raise
    except OODError as error:
        cls = PluginError if isinstance(error, PluginError) else OODError
        raise cls(f"{stage}: {error}") from error
    except RAISED as error:
        if plugin_of(error) is not None or not isinstance(error, Exception):
            raise PluginError(f"{stage}: {named(error)}") from error
        error.add_note(f"This happened in the stage: {stage}")
        raise
    except BaseException as error:
        error.add_note(f"This happened in the stage: {stage}")
        hooks.ood_on_error(stage=stage, error=error)
        raise
    for finished in group:  # the others came with the first
        if finished is not stage:
            hooks.ood_before_stage(stage=finished, stored=False)
        hooks.ood_after_stage(stage=finished, facts=store.facts(finished) or {})
    return [stage.key for stage in left]


def _execute(stages: Sequence[Stage], store: Store, observer: Observer) -> None:
    match stages[0]:
        case TrainStage() as stage:
            train.execute(stage, store, observer)
        case ExtractStage():
            extract.execute([stage for stage in stages if isinstance(stage, ExtractStage)], store, observer)
        case FitStage() as stage:
            fit.execute(stage, store, observer)
        case ScoreStage() as stage:
            score.execute(stage, store, observer)
        case MeasureStage() as stage:
            measure.execute(stage, store, observer)
