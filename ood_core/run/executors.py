"""Where the jobs of a run are carried out: in this process, or in several beside it. Another place is another class.

A job is a list of stages. Whoever carries it out needs three things: the recipes, out of which it makes the same plan;
the keys of the stages; and the store, through which stages find each other's results. Nothing else is handed over, so
an executor may send jobs as far as the store can be seen. `run.run` decides what is ready; executors only carry out.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
from pluggy import HookRelay

from ood_core.errors import OODError
from ood_core.pipeline.dispatch import Done, carry_out
from ood_core.recipe.read import Recipe
from ood_core.records.results import Failure
from ood_core.records.stages import Plan, Stage, TrainStage
from ood_core.run import worker
from ood_core.run.worker import Message, Told
from ood_core.runtime import distributed, memory
from ood_core.store.cost_model import work
from ood_core.store.store import Store

FIRST_GUESS_MB = 1024.0
"""Memory that a process is expected to take before any has told; a process without a job takes about half of it."""

SPARE = 1.2
"""How much more than the largest peak seen must be free before another job begins."""


SMALL = 20_000
"""Images that trainings see in all, each epoch counted, up to which processes take longer to start than they save."""


PATIENCE_SECONDS = 5.0
"""What a process that is told to end is given for it."""


@dataclass(frozen=True)
class Job:
    """Stages that are carried out by one process, one after another.

    Attributes:
        stages: Each behind its inputs, as far as those are not done already.
    """

    stages: tuple[Stage, ...]

    @property
    def needs(self) -> set[str]:
        """Keys of stages that other jobs must have carried out before."""
        own = {stage.key for stage in self.stages}
        return {earlier.key for stage in self.stages for earlier in stage.inputs} - own


@dataclass(frozen=True)
class Outcome:
    """What became of a job."""

    job: Job
    done: Done


class Executor(ABC):
    """Carries out jobs that are ready, as many at once as there is room for."""

    @abstractmethod
    def has_room(self) -> bool:
        """Return whether another job may begin now; true whenever none is at work."""

    @abstractmethod
    def begin(self, job: Job) -> None:
        """Take a job, all of whose needs are in the store; return at once."""

    @abstractmethod
    def outcome(self) -> Outcome:
        """Return what became of one of the jobs at work, and tell the hooks how all get on until then."""

    @abstractmethod
    def close(self) -> None:
        """Give back what is held, also in the midst of jobs: their checkpoints stay."""


class InProcess(Executor):
    """Carries out one job after another in this process; with torchrun, together with the processes beside it."""

    def __init__(self, store: Store, hooks: HookRelay, of_stages: Mapping[str, int] | None = None) -> None:
        self.store, self.hooks, self.of_stages = store, hooks, of_stages or {}
        self.job: Job | None = None

    def has_room(self) -> bool:
        """Return whether the last job is done."""
        return self.job is None

    def begin(self, job: Job) -> None:
        """Keep the job until its outcome is asked for."""
        self.job = job

    def outcome(self) -> Outcome:
        """Carry out the job."""
        assert self.job is not None, "a job was begun"
        job, self.job = self.job, None
        return Outcome(job, carry_out(job.stages, self.store, self.hooks, self.of_stages))

    def close(self) -> None:
        """Hold nothing."""


# ------------------------------------------------------------------------------------------------ several processes


@dataclass
class _Worker:
    """A process that takes jobs, and what it is doing."""

    process: Any
    connection: Connection
    slot: int
    job: Job | None = None
    at: Stage | None = None
    """The stage in which it was last heard of."""


@dataclass
class LocalProcesses(Executor):
    """Carries out jobs side by side in processes of this machine, each with its share of cores, or a GPU of its own.

    A process that dies takes down the job it was at, no other; the next job gets a new one.

    Attributes:
        recipes: Out of which each process makes the plan again.
        stages: Of that plan, by key.
        places: How many jobs at once.
        threads: Of each.
        of_stages: With how many threads some stages are computed instead, by key.
    """

    recipes: Sequence[Recipe]
    stages: dict[str, Stage]
    store: Store
    hooks: HookRelay
    places: int
    threads: int
    of_stages: Mapping[str, int] = field(default_factory=dict)
    _workers: list[_Worker] = field(default_factory=list)
    _largest_mb: float = FIRST_GUESS_MB

    def has_room(self) -> bool:
        """Return whether a place is free, and memory for one job more."""
        busy = sum(of.job is not None for of in self._workers)
        return busy == 0 or (busy < self.places and memory.available() > SPARE * self._largest_mb)

    def begin(self, job: Job) -> None:
        """Hand the job to a process without one, which is started if there is none."""
        self._workers = [of for of in self._workers if of.job is not None or of.process.is_alive()]
        idle = next((of for of in self._workers if of.job is None), None) or self._start()
        idle.job, idle.at = job, job.stages[0]
        idle.connection.send([stage.key for stage in job.stages])

    def outcome(self) -> Outcome:
        """Listen to all processes until one is through with its job, or dead."""
        try:
            while True:
                for ready in wait([of.connection for of in self._workers]):
                    speaker = next(of for of in self._workers if of.connection is ready)
                    if (outcome := self._heard(speaker)) is not None:
                        return outcome
        except KeyboardInterrupt as error:
            for of in self._workers:
                if of.job is not None and of.at is not None:
                    self.hooks.ood_on_error(stage=of.at, error=error)
            raise

    def close(self) -> None:
        """End all processes."""
        for of in self._workers:
            of.connection.close()
            of.process.terminate()
        for of in self._workers:
            of.process.join(PATIENCE_SECONDS)
            of.process.kill()
            of.process.join()
        self._workers.clear()

    def _heard(self, at_work: _Worker) -> Outcome | None:
        try:
            message: Message = at_work.connection.recv()
        except (EOFError, ConnectionResetError):
            return self._lost(at_work)
        if isinstance(message, Told):
            self._tell(at_work, message)
            return None
        assert at_work.job is not None, "only a process at work speaks"
        job, at_work.job = at_work.job, None
        failures = tuple(failed.failure(self.stages[failed.key]) for failed in message.failures)
        return Outcome(job, Done(message.finished, message.carried_out, failures))

    def _tell(self, at_work: _Worker, told: Told) -> None:
        at_work.at = stage = self.stages[told.key]
        values = dict(told.values)
        if told.hook == "ood_after_stage":
            values["facts"] = self.store.facts(stage) or {}
            self._largest_mb = max(self._largest_mb, values["facts"].get("peak_memory_mb", 0.0))
        getattr(self.hooks, told.hook)(stage=stage, **values)

    def _lost(self, dead: _Worker) -> Outcome | None:
        """Take what a dead process leaves: its job failed at the stage in which it was."""
        dead.process.join()
        self._workers.remove(dead)
        if dead.job is None:
            return None
        left = [stage for stage in dead.job.stages if self.store.facts(stage) is None]
        finished = tuple(stage.key for stage in dead.job.stages if stage not in left)
        if not left:
            return Outcome(dead.job, Done(finished, finished, ()))
        at = dead.at if dead.at in left else left[0]
        error = OODError(f"{at}: its process {_ended(dead.process.exitcode)}; what it had done is kept")
        self.hooks.ood_on_error(stage=at, error=error)
        return Outcome(dead.job, Done(finished, finished, (Failure(at, str(error), error),)))

    def _start(self) -> _Worker:
        slot = next(slot for slot in range(self.places) if slot not in [of.slot for of in self._workers])
        here, there = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")  # threads of this process, and its GPU, do not survive a fork
        process = context.Process(
            target=worker.work, args=(there, self.recipes, self.store.root, self.threads, self.of_stages)
        )
        with _environment(slot, self.threads):
            process.start()
        there.close()
        started = _Worker(process, here, slot)
        self._workers.append(started)
        return started


@contextmanager
def _environment(slot: int, threads: int) -> Iterator[None]:
    """Let a process that is started meanwhile see one GPU alone, and as many threads as it may use."""
    own = {"OMP_NUM_THREADS": str(threads)}
    if gpus := _gpus():
        own["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if not torch.cuda.is_available():
        return []
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",") if given else [str(index) for index in range(torch.cuda.device_count())]


def _ended(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended by itself with exit code {code}"


def places(jobs: Sequence[Job], asked: int | None) -> tuple[int, int]:
    """Return how many jobs to carry out at once, and how many threads each may use.

    Args:
        jobs: What is to be done.
        asked: What the user wants; None is as many as there are GPUs, or else trainings that do not wait for each
            other, up to the number of cores, and one where those are small. One extraction, fit or score uses all
            cores by itself.
    """
    cores, gpus = torch.get_num_threads(), torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked is None:
        trainings = [stage for job in jobs for stage in job.stages if isinstance(stage, TrainStage)]
        continued = {earlier.key for stage in trainings for earlier in stage.inputs}
        chains = len({stage.key for stage in trainings} - continued)
        small = sum(work(stage) for stage in trainings) < SMALL
        asked = min(gpus, len(jobs)) if gpus else 1 if small else min(cores, chains)
    return max(asked, 1), max(cores // max(asked, 1), 1)


def local(
    recipes: Sequence[Recipe],
    plan: Plan,
    store: Store,
    hooks: HookRelay,
    todo: Sequence[Job],
    asked: int | None,
    of_stages: Mapping[str, int],
) -> Executor:
    """Return the executor of this machine: processes where several jobs can be at work at once, else none beside it."""
    at_once, threads = places(todo, asked)
    if at_once == 1 or distributed.world_size() > 1:
        return InProcess(store, hooks, of_stages)
    stages = {stage.key: stage for stage in plan.stages}
    return LocalProcesses(recipes, stages, store, hooks, at_once, threads, of_stages)
