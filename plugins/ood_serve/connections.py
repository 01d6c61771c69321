"""Connections of clients that may not keep silent for ever."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


def impatient(seconds: float) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol, closing connections on which the head of a request takes longer than so many seconds.

    The head is the request line and the headers; bodies have a bound of their own, and idle connections that have had
    an answer are uvicorn's to close.
    """

    class Impatient(HttpToolsProtocol):
        _head: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._await_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is None or self.cycle.response_complete:  # and it is not the last byte of a head
                self._await_head()

        def on_headers_complete(self) -> None:
            self._cease()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._cease()
            super().connection_lost(exc)

        def _await_head(self) -> None:
            if self._head is None:  # further bytes buy no further time
                self._head = self.loop.call_later(seconds, self.transport.close)

        def _cease(self) -> None:
            if self._head is not None:
                self._head.cancel()
                self._head = None

    return Impatient
