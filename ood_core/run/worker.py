"""A process that carries out jobs for another one, and the messages that it sends back."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

import torch

from ood_core.errors import OODError
from ood_core.hookspecs import hookimpl
from ood_core.pipeline.dispatch import JobResult, carry_out
from ood_core.plugins import find, hook_manager
from ood_core.records.results import Failure
from ood_core.records.stages import Stage
from ood_core.runtime.plugin_errors import RAISED, named
from ood_core.store.files import DiskFullError
from ood_core.store.store import Store

PROGRESS_SECONDS = 0.1
"""Shortest time between two messages of progress."""


@dataclass(frozen=True)
class HookCall:
    """A call of a lifecycle hook, to be made by the parent process."""

    hook: str
    key: str
    values: dict[str, Any]


Message: TypeAlias = HookCall | JobResult | OODError
"""An OODError says why the jobs of this process cannot begin, a DiskFullError why no other can."""


class _Sender:
    """A plugin that sends the calls of lifecycle hooks to the parent process."""

    def __init__(self, connection: Connection) -> None:
        self.connection, self.last_progress = connection, 0.0

    def _send(self, hook: str, stage: Stage, **values: Any) -> None:
        self.connection.send(HookCall(hook, stage.key, values))

    @hookimpl
    def ood_before_stage(self, stage: Stage, stored: bool) -> None:
        self._send("ood_before_stage", stage, stored=stored)

    @hookimpl
    def ood_on_progress(self, stage: Stage, done: int, total: int) -> None:
        if done == total or time.monotonic() - self.last_progress > PROGRESS_SECONDS:
            self.last_progress = time.monotonic()
            self._send("ood_on_progress", stage, done=done, total=total)

    @hookimpl
    def ood_after_epoch(self, stage: Stage, metrics: Mapping[str, float]) -> None:
        self._send("ood_after_epoch", stage, metrics=dict(metrics))

    @hookimpl
    def ood_after_stage(self, stage: Stage) -> None:
        self._send("ood_after_stage", stage)  # the facts are in the store

    @hookimpl
    def ood_on_error(self, stage: Stage, error: BaseException) -> None:
        self._send("ood_on_error", stage, error=OODError(str(error)))


@dataclass(frozen=True)
class Assignment:
    """Everything that a worker process needs besides the keys of its jobs."""

    stages: bytes
    """All of the plan, pickled: plugins are found before their classes are imported."""
    versions: Mapping[str, str]
    """The plan's; a worker whose own differ refuses its jobs."""
    store: Path
    threads: int
    stage_threads: Mapping[str, int]
    """Number of torch threads of single stages instead, by key."""


def work(connection: Connection, assignment: Assignment) -> None:
    """Carry out jobs, lists of keys that arrive through the connection, until the parent process has exited."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and ends this process
    torch.set_num_threads(assignment.threads)
    store, manager = Store(assignment.store), hook_manager()
    manager.register(_Sender(connection))
    stages = _unpickled(assignment)
    try:
        while True:
            keys: list[str] = connection.recv()
            if isinstance(stages, OODError):
                connection.send(stages)
                continue
            try:
                result = carry_out([stages[key] for key in keys], store, manager.hook, assignment.stage_threads)
            except DiskFullError as error:
                connection.send(error)
                continue
            connection.send(replace(result, failures=tuple(map(_portable, result.failures))))
    except (EOFError, OSError):
        os._exit(0)  # the parent process has exited


def _unpickled(assignment: Assignment) -> dict[str, Stage] | OODError:
    """Return the stages by key, or why they cannot be carried out here."""
    try:
        now = find().versions()
    except OODError as error:
        return OODError(f"code changed since the run began: {error}")
    names = assignment.versions.keys() | now.keys()
    if changed := sorted(name for name in names if assignment.versions.get(name) != now.get(name)):
        return OODError(f"code changed since the run began: {', '.join(changed)}; run it again")
    try:
        return {stage.key: stage for stage in pickle.loads(assignment.stages)}  # noqa: S301 - our own
    except RAISED as error:  # whatever the image set of a plugin raises
        return OODError(f"the stages cannot be received: {named(error)}")


def _portable(failure: Failure) -> Failure:
    """Return the failure with an error that can be pickled, of anything but a user's mistake with its traceback."""
    if isinstance(failure.error, OODError):
        return replace(failure, error=OODError(failure.message))
    error = RuntimeError(failure.message)
    error.add_note(failure.traceback)
    return replace(failure, error=error)
