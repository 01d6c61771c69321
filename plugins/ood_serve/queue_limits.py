"""Bounds on the images in the service and on the time that each request may take."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ood_serve.errors import BUSY, RequestError, stopping


@dataclass(eq=False)
class AdmittedRequest:
    """A request in the service; it counts as one image until its body was read."""

    deadline: asyncio.Timeout
    images: int = 1


class Admission:
    """The requests that are accepted and not yet answered; used in the event loop alone.

    Args:
        limit: Maximum number of their images.

    Attributes:
        stopping: Whether new requests are rejected.
    """

    def __init__(self, limit: int) -> None:
        self.stopping = False
        self._limit = limit
        self._requests: set[AdmittedRequest] = set()

    def __len__(self) -> int:
        return sum(request.images for request in self._requests)

    def stop(self) -> None:
        """Reject new requests; finish the ones in progress."""
        self.stopping = True

    def dismiss(self) -> None:
        """End the requests in progress: each is answered that the service is stopping."""
        for request in self._requests:
            if not request.deadline.expired():
                request.deadline.reschedule(0)  # long past, by any event loop's clock

    @contextmanager
    def admit(self, deadline: asyncio.Timeout) -> Iterator[AdmittedRequest]:
        """Hold a place for a request.

        Raises:
            RequestError: There is no room, or the service is stopping.
        """
        if self.stopping:
            raise stopping()
        self._require_room(1)
        request = AdmittedRequest(deadline)
        self._requests.add(request)
        try:
            yield request
        finally:
            self._requests.discard(request)

    def resize(self, request: AdmittedRequest, images: int) -> None:
        """Set the number of images of a request.

        Raises:
            RequestError: There is no room for as many.
        """
        self._require_room(images - request.images)
        request.images = images

    def _require_room(self, images: int) -> None:
        if len(self) + images > self._limit:
            raise RequestError(503, f"{len(self)} images are waiting, {self._limit} at most; try again", "busy", BUSY)
