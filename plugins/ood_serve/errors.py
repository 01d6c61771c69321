"""Errors that a client is answered."""

from __future__ import annotations

from collections.abc import Mapping

BUSY = {"Retry-After": "1"}


class RequestError(Exception):
    """A request that cannot be answered with 200.

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
