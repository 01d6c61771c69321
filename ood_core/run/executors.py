"""Executors of jobs: in this process, or in several beside it. Another place is another class.

A job is a list of stages, which are values: with the store, through which stages find each other's results, an executor
may send them as far as the store can be seen. `schedule.run` decides which jobs are ready; executors only carry out.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
from pluggy import HookRelay

from ood_core.errors import OODError
from ood_core.pipeline.dispatch import JobResult, carry_out
from ood_core.records.plan import Plan
from ood_core.records.results import Failure
from ood_core.records.stages import Stage, TrainStage
from ood_core.run.worker import Assignment, HookCall, Message, work
from ood_core.runtime import distributed, memory
from ood_core.runtime.plugin_errors import RAISED, named
from ood_core.store.cost_model import image_count
from ood_core.store.files import DiskFullError
from ood_core.store.store import Store

_LOG = logging.getLogger(__name__)

FIRST_GUESS_MB = 1024.0
"""Memory that a process is expected to take before the first peak is measured; one without a job takes about half."""

SPARE = 1.2
"""How much more than the largest peak seen must be free before another job begins."""

SMALL = 20_000
"""Images that trainings see in all, each epoch counted, up to which processes take longer to start than they save."""

TERMINATION_SECONDS = 5.0
"""Seconds to wait before a terminated worker is killed."""


@dataclass(frozen=True)
class Job:
    """Stages that are carried out by one process, one after another: each behind its inputs, unless these are done."""

    stages: tuple[Stage, ...]

    @property
    def needs(self) -> set[str]:
        """Keys of stages that other jobs must have carried out before."""
        own = {stage.key for stage in self.stages}
        return {earlier.key for stage in self.stages for earlier in stage.inputs} - own


class Executor(ABC):
    """Carries out jobs that are ready, as many at once as there is room for."""

    @abstractmethod
    def has_room(self) -> bool:
        """Return whether another job may begin now; true whenever none is running."""

    @abstractmethod
    def submit(self, job: Job) -> None:
        """Take a job, all of whose needs are in the store; return at once."""

    @abstractmethod
    def next_result(self) -> tuple[Job, JobResult]:
        """Wait for one of the running jobs; notify the hooks of the progress of all until then.

        Raises:
            DiskFullError: Of the store; no other job can be finished either.
        """

    @abstractmethod
    def close(self) -> None:
        """Release all resources, terminating running jobs; their checkpoints are kept."""


class InProcess(Executor):
    """Carries out one job after another in this process; with torchrun, together with the processes beside it."""

    def __init__(self, store: Store, hooks: HookRelay, stage_threads: Mapping[str, int] | None = None) -> None:
        self.store, self.hooks, self.stage_threads = store, hooks, stage_threads or {}
        self.job: Job | None = None

    def has_room(self) -> bool:
        """Return whether the last job is done."""
        return self.job is None

    def submit(self, job: Job) -> None:
        """Keep the job until `next_result`."""
        self.job = job

    def next_result(self) -> tuple[Job, JobResult]:
        """Carry out the job."""
        assert self.job is not None, "a job was submitted"
        job, self.job = self.job, None
        return job, carry_out(job.stages, self.store, self.hooks, self.stage_threads)

    def close(self) -> None:
        """Do nothing: nothing is held."""


@dataclass
class _Worker:
    """A worker process, its job, and the stage of its last message."""

    process: Any
    connection: Connection
    slot: int
    job: Job | None = None
    stage: Stage | None = None


@dataclass
class LocalProcesses(Executor):
    """Carries out jobs side by side in processes of this machine, each with its share of cores, or a GPU of its own.

    A process that dies takes down its own job, no other; the next job gets a new one.
    """

    stages: Mapping[str, Stage]
    """All stages of the plan, by key."""
    store: Store
    hooks: HookRelay
    places: int
    """Maximum number of jobs at once."""
    assignment: Assignment
    _workers: list[_Worker] = field(default_factory=list)
    _largest_mb: float = FIRST_GUESS_MB

    def has_room(self) -> bool:
        """Return whether a place is free, and memory for one job more."""
        busy = sum(worker.job is not None for worker in self._workers)
        return busy == 0 or (busy < self.places and memory.available() > SPARE * self._largest_mb)

    def submit(self, job: Job) -> None:
        """Send the job to an idle process, which is started if there is none."""
        self._workers = [worker for worker in self._workers if worker.job is not None or worker.process.is_alive()]
        idle = next((worker for worker in self._workers if worker.job is None), None) or self._start()
        idle.job, idle.stage = job, job.stages[0]
        idle.connection.send([stage.key for stage in job.stages])

    def next_result(self) -> tuple[Job, JobResult]:
        """Receive messages of all processes until one has finished its job, or died."""
        try:
            while True:
                for ready in wait([worker.connection for worker in self._workers]):
                    worker = next(worker for worker in self._workers if worker.connection is ready)
                    if (result := self._receive(worker)) is not None:
                        return result
        except KeyboardInterrupt as error:
            for worker in self._workers:
                if worker.job is not None and worker.stage is not None:
                    self.hooks.ood_on_error(stage=worker.stage, error=error)
            raise

    def close(self) -> None:
        """End all processes."""
        for worker in self._workers:
            worker.connection.close()
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(TERMINATION_SECONDS)
            worker.process.kill()
            worker.process.join()
        self._workers.clear()

    def _receive(self, worker: _Worker) -> tuple[Job, JobResult] | None:
        try:
            message: Message = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            return self._remove_dead(worker)
        if isinstance(message, HookCall):
            worker.stage = stage = self.stages[message.key]
            values = dict(message.values)
            if message.hook == "ood_after_stage":
                values["facts"] = self.store.facts(stage) or {}
                self._largest_mb = max(self._largest_mb, values["facts"].get("peak_memory_mb", 0.0))
            getattr(self.hooks, message.hook)(stage=stage, **values)
            return None
        if isinstance(message, DiskFullError):
            raise message
        assert worker.job is not None, "only a process with a job sends its result"
        job, worker.job = worker.job, None
        if isinstance(message, OODError):
            return job, JobResult((), (), tuple(Failure.of(stage, message) for stage in job.stages))
        return job, message

    def _remove_dead(self, worker: _Worker) -> tuple[Job, JobResult] | None:
        """Return what is left of a dead process: its job failed at the stage of its last message."""
        worker.process.join()
        self._workers.remove(worker)
        if worker.job is None:
            return None
        left = [stage for stage in worker.job.stages if self.store.facts(stage) is None]
        finished = tuple(stage.key for stage in worker.job.stages if stage not in left)
        if not left:
            return worker.job, JobResult(finished, finished, ())
        stage, code = worker.stage if worker.stage in left else left[0], worker.process.exitcode
        ended = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended by itself with exit code {code}"
        error = OODError(f"{stage}: its process {ended}; what it had done is kept")
        self.hooks.ood_on_error(stage=stage, error=error)
        return worker.job, JobResult(finished, finished, (Failure.of(stage, error),))

    def _start(self) -> _Worker:
        slot = next(slot for slot in range(self.places) if slot not in [worker.slot for worker in self._workers])
        here, there = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")  # threads of this process, and its GPU, do not survive a fork
        process = context.Process(target=work, args=(there, self.assignment))
        with _environment(slot, self.assignment.threads):
            process.start()
        there.close()
        self._workers.append(_Worker(process, here, slot))
        return self._workers[-1]


@contextmanager
def _environment(slot: int, threads: int) -> Iterator[None]:
    """Give a process that is started meanwhile its number of threads, one GPU, and no interrupt from the keyboard."""
    own = {"OMP_NUM_THREADS": str(threads)}
    if torch.cuda.is_available():
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = given.split(",") if given else [str(index) for index in range(torch.cuda.device_count())]
        own["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    before = {name: os.environ[name] for name in own.keys() & os.environ.keys()}
    os.environ.update(own)
    if can_block := hasattr(signal, "pthread_sigmask"):  # not on Windows
        resource_tracker.ensure_running()  # which would unblock it
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited, so valid while it starts too
    try:
        yield
    finally:
        if can_block:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for name in own:
            del os.environ[name]
        os.environ.update(before)


def places(jobs: Sequence[Job], requested: int | None) -> tuple[int, int]:
    """Return how many of the jobs to carry out at once, and how many threads each may use.

    By default as many as there are GPUs, or else trainings that do not wait for each other, up to the number of cores,
    and one where those are small. One extraction, fit or score uses all cores by itself.
    """
    cores, gpus = torch.get_num_threads(), torch.cuda.device_count() if torch.cuda.is_available() else 0
    if requested is None:
        trainings = [stage for job in jobs for stage in job.stages if isinstance(stage, TrainStage)]
        continued = {earlier.key for stage in trainings for earlier in stage.inputs}
        chains = len({stage.key for stage in trainings} - continued)
        small = sum(image_count(stage) for stage in trainings) < SMALL
        requested = min(gpus, len(jobs)) if gpus else 1 if small else min(cores, chains)
    return max(requested, 1), max(cores // max(requested, 1), 1)


def local_executor(
    plan: Plan,
    store: Store,
    hooks: HookRelay,
    todo: Sequence[Job],
    requested: int | None,
    stage_threads: Mapping[str, int],
) -> Executor:
    """Return the executor of this machine: several processes if several jobs can run at once, else this process."""
    at_once, threads = places(todo, requested)
    if at_once == 1 or distributed.world_size() > 1:
        return InProcess(store, hooks, stage_threads)
    try:
        pickled = pickle.dumps(plan.stages)  # at once, so that stages share their opened images in each process
    except RAISED as error:  # whatever the image set of a plugin raises
        _LOG.warning("one job after another: stages cannot be sent to other processes: %s", named(error))
        return InProcess(store, hooks, stage_threads)
    assignment = Assignment(pickled, plan.versions, store.root, threads, stage_threads)
    return LocalProcesses({stage.key: stage for stage in plan.stages}, store, hooks, at_once, assignment)
