"""A time limit for the head of a request."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


def limit_head_seconds(seconds: float) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol that closes a connection if the head of a request takes longer than so many seconds.

    The head is the request line and the headers. Bodies have a limit of their own; uvicorn closes idle connections.
    """

    class LimitedProtocol(HttpToolsProtocol):
        _head: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._await_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is None or self.cycle.response_complete:  # and it is not the last byte of a head
                self._await_head()

        def on_headers_complete(self) -> None:
            self._head_complete()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._head_complete()
            super().connection_lost(exc)

        def _await_head(self) -> None:
            if self._head is None:  # further bytes buy no further time
                self._head = self.loop.call_later(seconds, self.transport.close)

        def _head_complete(self) -> None:
            if self._head is not None:
                self._head.cancel()
                self._head = None

    return LimitedProtocol
