"""A request from its body to its response."""

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
from ood_serve.batching import Batcher, BatchResult, Job, settle
from ood_serve.limits import BUSY, Admission, Limits, RequestError, stopping
from ood_serve.monitoring import Monitor
from ood_serve.schemas import Refused, Result, ScoreQuery, ScoreResponse, make_result
from ood_serve.uploads import Upload, prepare_image, read_uploads

MOST_THREADS = 8
"""Maximum number of decoding threads."""

MAPPED = 16
"""Maximum number of reference images that set the scale of error maps: each takes many passes."""

BELOW = 0.99
"""Share of their patches within the scale."""


class Service:
    """A detector for concurrent requests.

    Attributes:
        ready: Whether the first forward pass is done.
        error_scale: The `BELOW` quantile of patch errors of in-distribution images; 0 until it is known.
    """

    def __init__(self, state: DetectorState, limits: Limits) -> None:
        self.state, self.limits = state, limits
        self.ready = False
        self.error_scale = 0.0
        self.monitor = Monitor(state)
        self.admission = Admission(limits.queue)
        self._batcher = Batcher(state, limits.batch_size, limits.max_wait, self.monitor.record_batch)
        self.monitor.queue.set_function(lambda: len(self._batcher))
        self.monitor.accepted.set_function(lambda: len(self.admission))
        # one core for each thread: torch's own threads within them would compete for the cores
        self._decoders = ThreadPoolExecutor(
            min(os.cpu_count() or 1, MOST_THREADS), "decode", initializer=torch_state.use_one_core
        )

    async def open(self) -> None:
        """Start, and pass one image, so that the first request does not wait for one-time initialisation.

        Raises:
            Exception: The image did not pass.
        """
        self._batcher.start()
        await self._pass_references(1, self.state.preprocessing.image_size + 1, mapped=False)
        if self.state.trained_task is not None:
            passed = await self._pass_references(MAPPED, self.state.preprocessing.image_size, mapped=True)
            errors = [of.error_map.numpy().ravel() for of in passed if of.error_map is not None]
            self.error_scale = float(np.quantile(np.concatenate(errors), BELOW))
        self.ready = True

    async def _pass_references(self, count: int, size: int, mapped: bool) -> list[BatchResult]:
        """Return the results of the first reference images, as files of this size; another size is resized."""
        uploads = []
        for image in self.state.reference_images[:count]:
            file = BytesIO()
            PIL.Image.fromarray(image.movedim(0, -1).numpy()).resize((size, size)).save(file, "PNG")
            uploads.append(Upload("reference", file.getvalue()))
        results = []
        for outcome in await self._pass(uploads, mapped, counted=False):
            if isinstance(outcome, RequestError):
                raise outcome
            results.append(outcome)
        return results

    def close(self, seconds: float = 1.0) -> bool:
        """Stop, and return whether the inference thread ended within so many seconds."""
        self.admission.stopping = True
        self._decoders.shutdown(wait=False, cancel_futures=True)
        return self._batcher.close(seconds)

    async def score(self, request: Request, query: ScoreQuery) -> ScoreResponse:
        """Return the results of a request.

        Raises:
            RequestError: There is no image, none can be scored, the query is wrong, or there is no room or time.
        """
        by = self._rule(query)
        reading = True
        try:
            async with asyncio.timeout(self.limits.timeout) as deadline:
                with self.admission.admit(deadline):
                    with self.admission.receive(request.client.host if request.client is not None else ""):
                        uploads = await read_uploads(request, self.limits)
                    self.admission.resize(deadline, len(uploads))
                    reading = False
                    outcomes = await self._pass(uploads, query.error_map)
                    make = partial(self._results, uploads, outcomes, by, query.nearest)
                    if query.nearest:  # distances to all examples are slow
                        results = await asyncio.get_running_loop().run_in_executor(self._decoders, make)
                    else:
                        results = make()
        except TimeoutError:
            seconds = f"{self.limits.timeout:g} s"
            if self.admission.stopping:
                raise stopping() from None
            if reading:
                closing = {"Connection": "close"}
                raise RequestError(408, f"the body did not arrive within {seconds}", "timeout", closing) from None
            raise RequestError(504, f"the images were not scored within {seconds}", "timeout") from None
        for result in results:
            if isinstance(result, Result):
                self.monitor.images.labels("ood" if result.is_ood else "id").inc()
        answer = ScoreResponse(results=results, scorer=by.scorer, tpr=by.tpr, detector=self.state.origin.name)
        if query.error_map:
            answer.error_scale = self.error_scale
        return answer

    def _rule(self, query: ScoreQuery) -> DecisionRule:
        """Return the decision rule of a query.

        Raises:
            RequestError: The detector does not support the query.
        """
        try:
            by = decision_rule(self.state, query.scorer, query.tpr, query.per_class)
        except OODError as error:
            raise RequestError(422, str(error), "query") from error
        if query.nearest and self.state.examples is None:
            raise RequestError(422, "the detector has no training images to compare with; leave out 'nearest'", "query")
        if query.error_map and self.state.trained_task is None:
            reason = "the detector has no task that predicts hidden patches; leave out 'error_map'"
            raise RequestError(422, reason, "query")
        if query.error_map and not self.ready:
            raise RequestError(503, "the scale of error maps is not known yet; try again", "not ready", BUSY)
        return by

    async def _pass(
        self, uploads: Sequence[Upload], mapped: bool, counted: bool = True
    ) -> list[BatchResult | RequestError]:
        """Return the result of each image; errors of the service are raised."""
        loop = asyncio.get_running_loop()
        coming = [loop.create_future() for _ in uploads]
        for upload, answer in zip(uploads, coming, strict=True):
            self._batcher.expect()
            self._decoders.submit(self._prepare, upload, answer, mapped, counted)
        try:
            found = await asyncio.gather(*coming, return_exceptions=True)
        finally:
            for answer in coming:
                answer.cancel()  # after a timeout
        outcomes: list[BatchResult | RequestError] = []
        for outcome in found:
            if isinstance(outcome, BaseException) and not isinstance(outcome, RequestError):
                raise outcome
            outcomes.append(outcome)
        return outcomes

    def _prepare(self, upload: Upload, answer: asyncio.Future[BatchResult], mapped: bool, counted: bool) -> None:
        """Decode an image and queue it; runs in a thread."""
        try:
            image = prepare_image(upload, self.state.preprocessing, self.limits.max_pixels)
        except Exception as error:
            self._batcher.dismiss()
            loop = answer.get_loop()
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, answer, error)
        else:
            self._batcher.put(Job(image, answer, mapped, counted))

    def _results(
        self, uploads: Sequence[Upload], outcomes: Sequence[BatchResult | RequestError], by: DecisionRule, nearest: int
    ) -> list[Result | Refused]:
        """Return the result of each image.

        Raises:
            RequestError: None of them could be scored.
        """
        results: list[Result | Refused] = []
        failures = []
        for upload, outcome in zip(uploads, outcomes, strict=True):
            if isinstance(outcome, BatchResult) and (reason := outcome.scored.broken(0)) is not None:
                outcome = RequestError(422, f"{upload.name}: {reason}", "score")
            if isinstance(outcome, RequestError):
                failures.append(outcome)
                results.append(Refused(name=upload.name, error=outcome.message))
            else:
                found = decide(self.state, outcome.scored, by)
                results.append(make_result(self.state, upload.name, found, outcome, nearest))
        if len(failures) == len(results):
            raise RequestError(failures[0].status, "; ".join(of.message for of in failures), failures[0].kind)
        for failure in failures:
            self.monitor.errors.labels(failure.kind).inc()
        return results
