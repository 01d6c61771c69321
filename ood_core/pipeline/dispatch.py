"""Carries out stages one after another in this process, and lets what does not need a failed one go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from pluggy import HookRelay

from ood_core.errors import OODError
from ood_core.pipeline import extract, fit, measure, score, train
from ood_core.pipeline.events import Observer
from ood_core.plugins import hook_manager
from ood_core.records.results import Failure
from ood_core.records.stages import ExtractStage, Stage, TrainStage
from ood_core.runtime import distributed, memory, torch_state
from ood_core.store.store import Store


@dataclass(frozen=True)
class Done:
    """What became of stages.

    Attributes:
        finished: Keys of those whose results are in the store.
        carried_out: Of these, those that were carried out here and not by another run meanwhile.
    """

    finished: tuple[str, ...]
    carried_out: tuple[str, ...]
    failures: tuple[Failure, ...]


def carry_out(stages: Sequence[Stage], store: Store, hooks: HookRelay, threads: Mapping[str, int]) -> Done:
    """Carry out stages, each behind its inputs; a stage whose input fails here is left out.

    Where several processes share the run an error is raised instead: the others are in the midst of the same stage.

    Args:
        stages: What to do.
        store: Where results are found and filed.
        hooks: Lifecycle hooks to notify.
        threads: With how many threads of torch to compute a stage, by key; others with as many as there are.
    """
    usual = torch.get_num_threads()
    done: list[str] = []
    failures: list[Failure] = []
    lost: set[str] = set()
    for group in _passes(stages):
        left = [stage for stage in group if not any(earlier.key in lost for earlier in stage.inputs)]
        lost |= {stage.key for stage in group} - {stage.key for stage in left}
        torch.set_num_threads(threads.get(group[0].key, usual))
        try:
            lost |= {failed.key for failed in _attempts(left, store, hooks, done, failures)}
        finally:
            torch.set_num_threads(usual)
    finished = tuple(stage.key for stage in stages if stage.key not in lost)
    return Done(finished, tuple(done), tuple(failures))


def follow(keys: Sequence[str], stages: dict[str, Stage], store: Store) -> None:
    """Take part in what the first process has begun."""
    with torch_state.stage_state():
        _together([stages[key] for key in keys], store, Observer(hook_manager().hook, stages[keys[0]]))


def _passes(stages: Sequence[Stage]) -> Iterator[list[Stage]]:
    """Yield what is carried out together: extractions that can share a pass over the images, all else alone."""
    passes: dict[Any, list[Stage]] = {}
    for stage in stages:
        passes.setdefault(stage.passage if isinstance(stage, ExtractStage) else stage.key, []).append(stage)
    yield from passes.values()


def _attempts(
    group: Sequence[Stage], store: Store, hooks: HookRelay, done: list[str], failures: list[Failure]
) -> Iterator[Stage]:
    """Yield the stages of a group that fail; if they fail together, each is tried alone: one probe may be at fault."""
    if not group:
        return
    try:
        done += _execute(group, store, hooks)
    except Exception as error:
        if distributed.world_size() > 1:
            raise
        if len(group) > 1:
            for stage in group:
                yield from _attempts([stage], store, hooks, done, failures)
            return
        told = error.__cause__ if isinstance(error, OODError) and error.__cause__ is not None else error
        hooks.ood_on_error(stage=group[0], error=told)
        failures.append(Failure(group[0], _line(error), error))
        yield group[0]


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, OODError) else f"{type(error).__name__}: {text}"


def _execute(group: Sequence[Stage], store: Store, hooks: HookRelay) -> list[str]:
    """Carry out what another process has not done while this one waited; return the keys."""
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
                    _one(left, store, Observer(hooks, stage))
    except OODError as error:
        raise OODError(f"{stage}: {error}") from error
    except BaseException as error:
        error.add_note(f"This happened in the stage: {stage}")
        if not isinstance(error, Exception):
            hooks.ood_on_error(stage=stage, error=error)
        raise
    for finished in group:  # the others came with the first
        if finished is not stage:
            hooks.ood_before_stage(stage=finished, stored=False)
        hooks.ood_after_stage(stage=finished, facts=store.facts(finished) or {})
    return [stage.key for stage in left]


def _one(left: Sequence[Stage], store: Store, observer: Observer) -> None:
    stage = left[0]
    if isinstance(stage, (TrainStage, ExtractStage)):
        distributed.broadcast(tuple(stage.key for stage in left))
        _together(left, store, observer)
    else:
        _EXECUTE[stage.kind](stage, store, observer)


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
