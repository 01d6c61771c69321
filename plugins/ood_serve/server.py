"""Sockets, time limits of connections, signals, graceful shutdown."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from http import HTTPStatus
from threading import Event, Thread
from types import FrameType

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ood_core.errors import OODError
from ood_serve.application import application
from ood_serve.headers import headers_of
from ood_serve.service import Service

KEEP_ALIVE = 75
"""Seconds to keep an idle connection; longer than proxies do, so that none sends over one that is being closed."""

CLOSING = 1.0
"""Seconds of the grace period reserved for answers and threads."""

MOST_HEAD = 64 * 1024
"""Bytes of a request line with its headers."""

CHUNK = 8
"""Bytes that a byte of a body may take: a chunk of one byte has five more."""

LEAVING = 0.1
"""Seconds before the end of the grace period at which the process ends in any case."""


class Server(uvicorn.Server):
    """Uvicorn that finishes accepted requests before it ends, and meanwhile rejects new ones.

    Attributes:
        signalled: Set by the first signal to stop.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._until: float | None = None
        self.signalled = Event()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; at the second signal, stop at once."""
        # uvicorn would raise the signal again in the end, and the exit code would not be 0
        if self._until is None:
            self._until = time.monotonic() + max(0.0, self._service.limits.grace - CLOSING)
            self.signalled.set()
        else:
            self._until = 0.0

    async def on_tick(self, counter: int) -> bool:
        """Check ten times a second whether all requests are answered."""
        if self._until is not None:
            self._service.admission.stopping = True
            if time.monotonic() > self._until:
                self._service.admission.dismiss()
            self.should_exit = not len(self._service.admission) or time.monotonic() > self._until + CLOSING
        return await super().on_tick(counter)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at a name or address of this machine; port 0 takes any that is free.

    Raises:
        OODError: The port is taken or not allowed, or the host is none of this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except socket.gaierror as error:
        raise OODError(f"--host {host}: no such host: {error.strerror}") from error
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OODError(f"{host}:{port}: cannot listen there: {reason.lower()}; --port 0 takes any free port") from error


def limit_heads(seconds: float) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol that closes a connection if the head of a request is too long or takes too long.

    The head is the request line and the headers. What belongs to no body, as trailers, is as limited. Bodies have
    limits of their own; uvicorn closes idle connections.
    """

    class LimitedProtocol(HttpToolsProtocol):
        _head: asyncio.TimerHandle | None = None
        _arriving = False  # whether a request has begun and not ended
        _beside = 0  # bytes of it that belong to no body
        _unread = 0  # bytes received at once, before the first request that begins in them

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._await_head()

        def data_received(self, data: bytes) -> None:
            self._beside += len(data)
            self._unread = len(data)
            super().data_received(data)
            if self._arriving and self._beside > MOST_HEAD and not self.transport.is_closing():
                self._refuse(431, f"request line and headers are larger than {MOST_HEAD} bytes")
            elif self.cycle is None or self.cycle.response_complete:  # and it is not the last byte of a head
                self._await_head()

        def on_message_begin(self) -> None:
            self._arriving, self._beside, self._unread = True, self._unread, 0
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._head_complete()
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            self._beside = max(0, self._beside - CHUNK * len(body))
            self._unread = max(0, self._unread - CHUNK * len(body))
            super().on_body(body)

        def on_message_complete(self) -> None:
            self._arriving = False
            super().on_message_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._head_complete()
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            self._refuse(400, msg.rstrip("."))

        def _refuse(self, status: int, message: str) -> None:
            # not into an answer that has begun
            if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
                content = json.dumps({"error": message}).encode()
                headers = headers_of("") | {"Content-Type": "application/json", "Content-Length": str(len(content))}
                lines = [f"{name}: {value}\r\n" for name, value in {**headers, "Connection": "close"}.items()]
                first = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
                self.transport.write("".join([first, *lines, "\r\n"]).encode() + content)
            self.transport.close()

        def _await_head(self) -> None:
            if self._head is None:  # further bytes buy no further time
                self._head = self.loop.call_later(seconds, self.transport.close)

        def _head_complete(self) -> None:
            if self._head is not None:
                self._head.cancel()
                self._head = None

    return LimitedProtocol


def make_server(service: Service, started: Callable[[], None] = lambda: None) -> Server:
    """Return the server, to be run with sockets; `started` is called when the service is ready."""
    config = uvicorn.Config(
        application(service, started),
        log_level="warning",
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=1,
        server_header=False,
        http=limit_heads(service.limits.timeout),
        ws="none",
    )
    return Server(config, service)


def serve(service: Service, listening: socket.socket, started: Callable[[], None]) -> None:
    """Serve until a stop signal, then answer all accepted requests and end the process."""
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # its errors go to the client
    server = make_server(service, started)
    Thread(target=_leave_in_time, args=(server, service.limits.grace), name="grace", daemon=True).start()
    server.run(sockets=[listening])
    # Not by Python's own end: it takes half a second with torch, and longer under load. And a thread that is still at
    # work would be waited for, or torn out of torch's hands with a crash.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _leave_in_time(server: Server, grace: float) -> None:
    """End the process with the grace period, even if the event loop is blocked."""
    server.signalled.wait()
    time.sleep(grace - LEAVING)
    os._exit(0)
