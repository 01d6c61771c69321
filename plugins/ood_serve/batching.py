"""Dynamic batching: one thread passes all waiting images through the network together.

An idle thread starts at once with the images that wait; those that arrive meanwhile form the next batch. It waits only
for images that are being decoded, for `max_wait` at most.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Condition, Thread

import torch
from torch import Tensor

from ood_core.data.selection import to_unit
from ood_core.detector.forward import score_images
from ood_core.detector.predictions import ScoredBatch
from ood_core.detector.state import DetectorState
from ood_core.runtime.plugin_errors import RAISED, named


@dataclass(frozen=True)
class BatchResult:
    """Scores of one image, one row, and its error map [h, w] if requested."""

    scored: ScoredBatch
    error_map: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Job:
    """One image in the queue.

    Attributes:
        image: uint8 [3, S, S].
        answer: Future of its `BatchResult`.
        mapped: Whether to compute its error map.
        counted: Whether it came from a client, so that statistics include it.
        arrived: Time of arrival, monotonic.
    """

    image: Tensor
    answer: asyncio.Future[BatchResult]
    mapped: bool = False
    counted: bool = True
    arrived: float = field(default_factory=time.monotonic)


class Batcher:
    """The inference thread and its queue.

    `batch_size` and `max_wait` are those of `Limits`; `after_batch` is called in the thread after each forward pass,
    with the scores and the seconds that it took.
    """

    def __init__(
        self, state: DetectorState, batch_size: int, max_wait: float, after_batch: Callable[[ScoredBatch, float], None]
    ) -> None:
        self._state, self._size, self._wait, self._after_batch = state, batch_size, max_wait / 1000, after_batch
        self._waiting: deque[Job] = deque()
        self._coming = 0
        self._closed = False
        self._changed = Condition()
        self._thread = Thread(target=self._work, name="inference", daemon=True)

    def __len__(self) -> int:
        return len(self._waiting)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self, seconds: float) -> bool:
        """Drop waiting images; return whether the thread ended within so many seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def expect(self) -> None:
        """Announce an image that is being decoded; `put` or `dismiss` follows."""
        with self._changed:
            self._coming += 1

    def dismiss(self) -> None:
        """Withdraw an announced image."""
        with self._changed:
            self._coming -= 1
            self._changed.notify()

    def put(self, job: Job) -> None:
        """Queue an announced image; its answer is set in its own event loop."""
        with self._changed:
            self._coming -= 1
            self._waiting.append(job)
            self._changed.notify()

    def _work(self) -> None:
        while (jobs := self._next()) is not None:
            if wanted := [job for job in jobs if not job.answer.done()]:  # the others were cancelled
                self._pass(wanted)

    def _next(self) -> list[Job] | None:
        """Return the next batch as soon as there is one, None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return None
            latest = self._waiting[0].arrived + self._wait
            self._changed.wait_for(
                lambda: self._closed or not self._coming or len(self._waiting) >= self._size,
                max(0.0, latest - time.monotonic()),
            )
            return [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]

    def _pass(self, jobs: Sequence[Job]) -> None:
        try:
            began = time.perf_counter()
            found = score_images(self._state, torch.stack([job.image for job in jobs]))
            took = time.perf_counter() - began
            answers = [BatchResult(found[[row]], self._error_map(job)) for row, job in enumerate(jobs)]
        except RAISED as error:  # a SystemExit would end this thread, and its exception the service
            if len(jobs) == 1:
                _hand_over(jobs, [error if isinstance(error, Exception) else RuntimeError(named(error))])
            else:
                for job in jobs:  # so that a bad image fails alone
                    self._pass([job])
            return
        _hand_over(jobs, answers)
        if jobs[0].counted:
            self._after_batch(found, took)

    def _error_map(self, job: Job) -> Tensor | None:
        if not job.mapped or self._state.trained_task is None:
            return None
        return self._state.trained_task.patch_errors(to_unit(job.image[None].to(self._state.device)))[0].cpu()


def _hand_over(jobs: Sequence[Job], answers: Sequence[BatchResult | Exception]) -> None:
    def settle_all() -> None:
        for job, answer in zip(jobs, answers, strict=True):
            settle(job.answer, answer)

    loop = jobs[0].answer.get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(settle_all)


def settle(future: asyncio.Future[BatchResult], answer: BatchResult | Exception) -> None:
    """Set the result of an image, in the event loop; nothing if it was cancelled."""
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
