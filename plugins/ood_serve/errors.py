"""Answers that are not 200."""

from __future__ import annotations

from collections.abc import Mapping

BUSY = {"Retry-After": "1"}


class Failure(Exception):  # noqa: N818 - what a client did need not be an error of ours
    """What is wrong, for the client.

    Args:
        status: Of HTTP.
        message: One line.
        kind: One of few words, by which failures are counted.
        headers: Beside it.
    """

    def __init__(self, status: int, message: str, kind: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.kind = status, message, kind
        self.headers = dict(headers or {})


def stopping() -> Failure:
    """Return what is said to requests that come, or are not done, when the service ends."""
    return Failure(503, "the service is stopping", "stopping", BUSY | {"Connection": "close"})
