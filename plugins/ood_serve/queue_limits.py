"""Who may come in: a bound on the images that are in the service, and on how long each request stays."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from ood_serve.errors import BUSY, Failure, stopping


class Admission:
    """The images that are accepted and not yet answered; in the event loop alone.

    Args:
        most: How many there may be.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._stays: set[Stay] = set()
        self._stopping = False

    def __len__(self) -> int:
        return sum(stay.images for stay in self._stays)

    @property
    def stopping(self) -> bool:
        """Whether nobody comes in any more."""
        return self._stopping

    def stop(self) -> None:
        """Let nobody in from now on; who is in stays until answered."""
        self._stopping = True

    def dismiss(self) -> None:
        """End the requests that are still here: each is answered that the service is stopping."""
        for stay in self._stays:
            stay.cut()

    @contextmanager
    def stay(self, deadline: asyncio.Timeout) -> Iterator[Stay]:
        """Let a request in, as one image until it is known how many it has.

        Raises:
            Failure: There is no room, or the service is stopping.
        """
        if self._stopping:
            raise stopping()
        stay = Stay(self, deadline)
        self.require_room(1)
        self._stays.add(stay)
        try:
            yield stay
        finally:
            self._stays.discard(stay)

    def require_room(self, images: int) -> None:
        """Refuse so many more images if there is no room.

        Raises:
            Failure: There is none.
        """
        if len(self) + images > self._most:
            raise Failure(503, f"{len(self)} images are waiting, {self._most} at most; try again", "busy", BUSY)


class Stay:
    """One request in the service.

    Attributes:
        images: How many it has.
    """

    def __init__(self, admission: Admission, deadline: asyncio.Timeout) -> None:
        self.images = 1
        self._admission, self._deadline = admission, deadline

    def grow(self, images: int) -> None:
        """Say how many images there are.

        Raises:
            Failure: There is no room for as many.
        """
        self._admission.require_room(images - self.images)
        self.images = images

    def cut(self) -> None:
        """End it now."""
        if not self._deadline.expired():
            self._deadline.reschedule(0)  # long past, by any event loop's clock
