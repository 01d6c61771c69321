"""A process that carries out jobs for another one: what it is sent, and what it sends back."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

import torch

from ood_core.errors import OODError
from ood_core.hookspecs import hookimpl
from ood_core.interfaces import StageFacts
from ood_core.pipeline.dispatch import carry_out
from ood_core.plan.make import make_plan
from ood_core.plugins import find, hook_manager
from ood_core.recipe.read import Recipe
from ood_core.records.results import Failure
from ood_core.records.stages import Stage
from ood_core.store.store import Store

PROGRESS_SECONDS = 0.1
"""How often progress is told."""


@dataclass(frozen=True)
class Told:
    """What one of the lifecycle hooks is to hear of a stage."""

    hook: str
    key: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Failed:
    """A stage that failed; of anything but a user's mistake with its traceback."""

    key: str
    message: str
    trace: str | None

    def failure(self, stage: Stage) -> Failure:
        """Return it as if it had happened here."""
        if self.trace is None:
            return Failure(stage, self.message, OODError(self.message))
        error = RuntimeError(self.message)
        error.add_note(self.trace)
        return Failure(stage, self.message, error)


@dataclass(frozen=True)
class Finished:
    """The end of a job."""

    finished: tuple[str, ...]
    carried_out: tuple[str, ...]
    failures: tuple[Failed, ...]


Message: TypeAlias = Told | Finished


class _Sender:
    """A plugin that sends the calls of lifecycle hooks to the parent process, which repeats them."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.told = 0.0

    def _tell(self, hook: str, stage: Stage, **values: Any) -> None:
        self.connection.send(Told(hook, stage.key, values))

    @hookimpl
    def ood_before_stage(self, stage: Stage, stored: bool) -> None:
        self._tell("ood_before_stage", stage, stored=stored)

    @hookimpl
    def ood_on_progress(self, stage: Stage, done: int, total: int) -> None:
        if done == total or time.monotonic() - self.told > PROGRESS_SECONDS:
            self.told = time.monotonic()
            self._tell("ood_on_progress", stage, done=done, total=total)

    @hookimpl
    def ood_after_epoch(self, stage: Stage, metrics: StageFacts) -> None:
        self._tell("ood_after_epoch", stage, metrics=dict(metrics))

    @hookimpl
    def ood_after_stage(self, stage: Stage) -> None:
        self._tell("ood_after_stage", stage)  # the facts lie in the store

    @hookimpl
    def ood_on_error(self, stage: Stage, error: BaseException) -> None:
        self._tell("ood_on_error", stage, error=OODError(str(error)))


def work(
    connection: Connection, recipes: Sequence[Recipe], store: Path, threads: int, of_stages: Mapping[str, int]
) -> None:
    """Carry out jobs, lists of keys, until the other side is gone.

    Args:
        connection: Jobs come and messages go through it.
        recipes: The plan is made out of them, as the other side made it.
        store: Where results lie.
        threads: How many torch may use.
        of_stages: How many it is to use for some stages, by key.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other side is interrupted too, and ends this process
    torch.set_num_threads(threads)
    stages, problem = _planned(recipes)
    hooks = hook_manager()
    hooks.register(_Sender(connection))
    try:
        while True:
            keys: list[str] = connection.recv()
            if unknown := [Failed(key, problem, None) for key in keys if key not in stages]:
                connection.send(Finished((), (), tuple(unknown)))
                continue
            done = carry_out([stages[key] for key in keys], Store(store), hooks.hook, of_stages)
            connection.send(Finished(done.finished, done.carried_out, tuple(map(_failed, done.failures))))
    except (EOFError, OSError):
        os._exit(0)  # nobody is left to hear of it


def _planned(recipes: Sequence[Recipe]) -> tuple[dict[str, Stage], str]:
    """Return the stages by key, and what is to be said of a key that is not among them."""
    try:
        made = make_plan(recipes, find())
    except OODError as error:
        return {}, f"data or code changed since the run began: {error}"
    return {stage.key: stage for stage in made.stages}, "data or code changed since the run began; run it again"


def _failed(failure: Failure) -> Failed:
    mistake = isinstance(failure.error, OODError)
    trace = None if mistake else "".join(traceback.format_exception(failure.error))
    return Failed(failure.stage.key, failure.message, trace)
