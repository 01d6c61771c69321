"""One request from its body to its answer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO

import numpy as np
import PIL.Image
from starlette.requests import Request

from ood_core.detector.predictions import DecisionRule, decide, decision_rule
from ood_core.detector.state import DetectorState
from ood_core.errors import OODError
from ood_core.runtime import torch_state
from ood_serve import images, schemas
from ood_serve import uploads as bodies
from ood_serve.batching import Batcher, Job, Passed, settle
from ood_serve.errors import BUSY, Failure, stopping
from ood_serve.limits import Limits
from ood_serve.monitoring import Monitor
from ood_serve.queue_limits import Admission
from ood_serve.schemas import Answer, Question, Refused, Result
from ood_serve.uploads import Upload

MOST_THREADS = 8
"""That decode."""

MAPPED = 16
"""Images of the detector's own, at most, by whose errors the scale of error maps is set: each takes many passes."""

BELOW = 0.99
"""Share of their patches that lie within the scale."""


class Service:
    """A detector that is asked by many at once.

    Args:
        state: The detector's.
        limits: Of requests.

    Attributes:
        ready: Whether one image has passed.
        error_scale: What `BELOW` of the patches of in-distribution images are guessed better than; 0 until it is known.
    """

    def __init__(self, state: DetectorState, limits: Limits) -> None:
        self.state, self.limits = state, limits
        self.ready = False
        self.error_scale = 0.0
        self.monitor = Monitor(state)
        self.admission = Admission(limits.queue)
        self._batcher = Batcher(state, limits.batch_size, limits.max_wait, self.monitor.passed)
        self.monitor.queue.set_function(lambda: len(self._batcher))
        self.monitor.accepted.set_function(lambda: len(self.admission))
        # one core for each thread: torch's own threads within them would only get into each other's way
        self._decoders = ThreadPoolExecutor(
            min(os.cpu_count() or 1, MOST_THREADS), "decode", initializer=torch_state.use_one_core
        )

    async def open(self) -> None:
        """Start, and pass one image, so that the first request need not wait for what is set up once.

        Raises:
            Exception: Whatever was wrong with that image.
        """
        self._batcher.start()
        await self._pass_witnesses(1, self.state.preprocessing.image_size + 1, mapped=False)
        if self.state.trained_task is not None:
            passed = await self._pass_witnesses(MAPPED, self.state.preprocessing.image_size, mapped=True)
            errors = [of.error_map.numpy().ravel() for of in passed if of.error_map is not None]
            self.error_scale = float(np.quantile(np.concatenate(errors), BELOW))
        self.ready = True

    async def _pass_witnesses(self, count: int, size: int, mapped: bool) -> list[Passed]:
        """Return what came of the first witnesses, shown as pictures of this size; another one has to be resized."""
        uploads = []
        for witness in self.state.reference_images[:count]:
            file = BytesIO()
            PIL.Image.fromarray(witness.movedim(0, -1).numpy()).resize((size, size)).save(file, "PNG")
            uploads.append(Upload("witness", file.getvalue()))
        passed = []
        for outcome in await self._pass(uploads, mapped, counted=False):
            if isinstance(outcome, Failure):
                raise outcome
            passed.append(outcome)
        return passed

    def close(self, seconds: float = 1.0) -> bool:
        """Stop, and return whether the network has come to rest within so many seconds."""
        self.admission.stop()
        self._decoders.shutdown(wait=False, cancel_futures=True)
        return self._batcher.close(seconds)

    async def score(self, request: Request, question: Question) -> Answer:
        """Return what is said of the images of a request.

        Raises:
            Failure: There is no image, none can be scored, the question is wrong, or there is no room or time.
        """
        by = self._rule(question)
        reading = True
        try:
            async with asyncio.timeout(self.limits.timeout) as deadline:
                with self.admission.stay(deadline) as stay:
                    uploads = await bodies.read(request, self.limits)
                    stay.grow(len(uploads))
                    reading = False
                    outcomes = await self._pass(uploads, question.error_map)
                    return await self._answer(uploads, outcomes, by, question)
        except TimeoutError:
            raise self._late(reading) from None

    def _rule(self, question: Question) -> DecisionRule:
        """Return how scores become decisions.

        Raises:
            Failure: The detector cannot do what is asked.
        """
        try:
            by = decision_rule(self.state, question.scorer, question.tpr, question.per_class)
        except OODError as error:
            raise Failure(422, str(error), "query") from error
        if question.nearest and self.state.examples is None:
            raise Failure(422, "the detector keeps no images to show the nearest of; leave out 'nearest'", "query")
        if question.error_map and self.state.trained_task is None:
            raise Failure(
                422, "the detector cannot guess hidden patches, so it has no error map; leave out 'error_map'", "query"
            )
        if question.error_map and not self.ready:
            raise Failure(503, "the scale of error maps is not known yet; try again", "not ready", BUSY)
        return by

    async def _pass(self, uploads: Sequence[Upload], mapped: bool, counted: bool = True) -> list[Passed | Failure]:
        """Return what came of each image; errors of ours are raised."""
        loop = asyncio.get_running_loop()
        coming = [loop.create_future() for _ in uploads]
        for upload, answer in zip(uploads, coming, strict=True):
            self._batcher.expect()
            self._decoders.submit(self._prepare, upload, answer, mapped, counted)
        try:
            found = await asyncio.gather(*coming, return_exceptions=True)
        finally:
            for answer in coming:
                answer.cancel()  # of a request that has no time left
        for outcome in found:
            if isinstance(outcome, BaseException) and not isinstance(outcome, Failure):
                raise outcome
        return [outcome for outcome in found if isinstance(outcome, (Passed, Failure))]

    def _prepare(self, upload: Upload, answer: asyncio.Future[Passed], mapped: bool, counted: bool) -> None:
        """Decode an image and have it passed; in a thread."""
        try:
            image = images.prepare(upload, self.state.preprocessing, self.limits.max_pixels)
        except Exception as error:
            self._batcher.dismiss()
            loop = answer.get_loop()
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, answer, error)
        else:
            self._batcher.put(Job(image, answer, mapped, counted))

    async def _answer(
        self, uploads: Sequence[Upload], outcomes: Sequence[Passed | Failure], by: DecisionRule, question: Question
    ) -> Answer:
        make = partial(self._results, uploads, outcomes, by, question.nearest)
        if question.nearest:  # distances to all examples take a while
            results = await asyncio.get_running_loop().run_in_executor(self._decoders, make)
        else:
            results = make()
        for of in results:
            if isinstance(of, Result):
                self.monitor.images.labels("ood" if of.is_ood else "id").inc()
        answer = Answer(results=results, scorer=by.scorer, tpr=by.tpr, detector=self.state.origin.name)
        if question.error_map:
            answer.error_scale = self.error_scale
        return answer

    def _results(
        self, uploads: Sequence[Upload], outcomes: Sequence[Passed | Failure], by: DecisionRule, nearest: int
    ) -> list[Result | Refused]:
        """Return what is said of each image.

        Raises:
            Failure: None of them could be scored.
        """
        results: list[Result | Refused] = []
        failures = []
        for upload, outcome in zip(uploads, outcomes, strict=True):
            failure = _unusable(upload, outcome)
            if failure is None:
                assert isinstance(outcome, Passed)
                found = decide(self.state, outcome.scored, by)
                results.append(schemas.result(self.state, upload.name, found, outcome, nearest))
            else:
                failures.append(failure)
                results.append(Refused(name=upload.name, error=failure.message))
        if len(failures) == len(results):
            raise Failure(failures[0].status, "; ".join(of.message for of in failures), failures[0].kind)
        for failure in failures:
            self.monitor.errors.labels(failure.kind).inc()
        return results

    def _late(self, reading: bool) -> Failure:
        if self.admission.stopping:
            return stopping()
        seconds = f"{self.limits.timeout:g} s"
        if reading:
            return Failure(408, f"the body did not arrive within {seconds}", "timeout", {"Connection": "close"})
        return Failure(504, f"the images were not scored within {seconds}", "timeout")


def _unusable(upload: Upload, outcome: Passed | Failure) -> Failure | None:
    if isinstance(outcome, Failure):
        return outcome
    reason = outcome.scored.broken(0)
    return None if reason is None else Failure(422, f"{upload.name}: {reason}", "score")
