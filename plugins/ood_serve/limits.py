"""Limits of the service, the admission of requests within them, and the errors that clients receive."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address

from ood_core.data.decoding import MOST_PIXELS
from ood_core.errors import OODError

BUSY = {"Retry-After": "1"}

BODY_SECONDS, BODY_RATE = 5.0, 16 * 1024
"""A body may take so many seconds, and one more for each so many of its bytes that have arrived."""


@dataclass(frozen=True)
class Limits:
    """Limits of requests, batches and times.

    Attributes:
        batch_size: Maximum number of images in a forward pass.
        max_wait: Milliseconds to wait for images that are being decoded; a lone image never waits.
        queue: Maximum number of accepted images without an answer; a request counts as one until its body was read.
            Bodies from one address that are still arriving may take half of it.
        max_images: Maximum number of images in a request.
        max_bytes: Maximum size of its body.
        max_pixels: Maximum number of pixels of an image, by its header.
        timeout: Seconds for a request, from its first byte to its answer.
        grace: Seconds from the stop signal to the end of the process.
    """

    batch_size: int = 32
    max_wait: float = 2.0
    queue: int = 256
    max_images: int = 64
    max_bytes: int = 32 * 2**20
    max_pixels: int = 50_000_000
    timeout: float = 60.0
    grace: float = 20.0

    def __post_init__(self) -> None:
        if self.max_images > self.queue:
            never = f"a request of {self.max_images} images never fits into a queue of {self.queue}"
            raise OODError(f"{never}; lower --max-images or raise --queue")
        if self.max_pixels > MOST_PIXELS:
            raise OODError(f"--max-pixels {self.max_pixels}: at most {MOST_PIXELS} can be decoded")


class RequestError(Exception):
    """A request that is not answered with 200.

    Args:
        status: HTTP status.
        message: One line for the client.
        kind: Label of its counter, one of few words.
        headers: Headers of the response.
    """

    def __init__(self, status: int, message: str, kind: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.kind = status, message, kind
        self.headers = dict(headers or {})


def stopping() -> RequestError:
    """Return the error of requests that arrive, or are not finished, when the service stops."""
    return RequestError(503, "the service is stopping", "stopping", BUSY | {"Connection": "close"})


class Admission:
    """The requests that are accepted and not yet answered, by their deadlines; used in the event loop alone.

    Args:
        limit: Maximum number of their images.

    Attributes:
        stopping: Whether to reject new requests, and finish those in progress.
    """

    def __init__(self, limit: int) -> None:
        self.stopping = False
        self._limit = limit
        self._images: dict[asyncio.Timeout, int] = {}
        self._arriving: Counter[str] = Counter()  # bodies, by network

    def __len__(self) -> int:
        return sum(self._images.values())

    def dismiss(self) -> None:
        """End the requests in progress; each is answered that the service is stopping."""
        for deadline in self._images:
            if not deadline.expired():
                deadline.reschedule(0)  # long past, by any event loop's clock

    @contextmanager
    def admit(self, deadline: asyncio.Timeout) -> Iterator[None]:
        """Hold a place for a request, which counts as one image until its body was read.

        Raises:
            RequestError: There is no room, or the service is stopping.
        """
        if self.stopping:
            raise stopping()
        self.resize(deadline, 1)
        try:
            yield
        finally:
            del self._images[deadline]

    def resize(self, deadline: asyncio.Timeout, images: int) -> None:
        """Set the number of images of a request.

        Raises:
            RequestError: There is no room for as many.
        """
        held = len(self)
        if held + images - self._images.get(deadline, 0) > self._limit:
            raise RequestError(503, f"{held} images are waiting, {self._limit} at most; try again", "busy", BUSY)
        self._images[deadline] = images

    @contextmanager
    def receive(self, host: str) -> Iterator[None]:
        """Count a body from this address while it arrives.

        Raises:
            RequestError: Others from there take half of the places already.
        """
        network, most = _network_of(host), max(1, self._limit // 2)
        if self._arriving[network] >= most:
            message = f"{most} bodies from your address are still arriving, {most} at most; try again"
            raise RequestError(429, message, "busy", BUSY)
        self._arriving[network] += 1
        try:
            yield
        finally:
            self._arriving[network] -= 1
            self._arriving += Counter()  # leaves out those of 0


def _network_of(host: str) -> str:
    """Return an address; of IPv6 its first 64 bits, as everyone has all others."""
    try:
        address = ip_address(host)
    except ValueError:  # none, as at a Unix socket
        return host
    return str(address) if address.version == 4 else str(int(address) >> 64)
