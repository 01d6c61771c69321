"""Sockets, signals, and an orderly end."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from threading import Event, Thread
from types import FrameType

import uvicorn

from ood_core.errors import OODError
from ood_serve.application import application
from ood_serve.connections import impatient
from ood_serve.service import Service

KEPT = 75
"""Seconds that an idle connection is kept; longer than proxies do, so that none asks over one that is being closed."""

CLOSING = 1.0
"""Seconds of the grace that are left for the answers and the threads."""

LEAVING = 0.1
"""Seconds of the grace after which the process ends, whatever it is at."""


class Server(uvicorn.Server):
    """Uvicorn that answers what it has accepted before it ends, and meanwhile tells others that it is stopping.

    Args:
        config: Of uvicorn.
        service: What is served.

    Attributes:
        signalled: Set by the first signal to stop.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._until: float | None = None
        self.signalled = Event()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; at the second signal, at once."""
        # not kept as uvicorn does: it raises the signal again in the end, and the exit code would not be 0
        if self._until is None:
            self._until = time.monotonic() + max(0.0, self._service.limits.grace - CLOSING)
            self.signalled.set()
        else:
            self._until = 0.0

    async def on_tick(self, counter: int) -> bool:
        """Look ten times a second whether all is answered."""
        if self._until is not None:
            self._service.admission.stop()
            if time.monotonic() > self._until:
                self._service.admission.dismiss()
            self.should_exit = not len(self._service.admission) or time.monotonic() > self._until + CLOSING
        return await super().on_tick(counter)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Args:
        host: A name or address of this machine.
        port: 0 takes any that is free.

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


def make(service: Service, started: Callable[[], None] = lambda: None) -> Server:
    """Return what serves, to be run with sockets.

    Args:
        service: What is served.
        started: Called when requests are welcome.
    """
    config = uvicorn.Config(
        application(service, started),
        log_level="warning",
        access_log=False,
        timeout_keep_alive=KEPT,
        timeout_graceful_shutdown=1,
        server_header=False,
        http=impatient(service.limits.timeout),
        ws="none",
    )
    return Server(config, service)


def serve(service: Service, listening: socket.socket, started: Callable[[], None]) -> None:
    """Serve until a signal to stop, and all that was accepted is answered.

    Args:
        service: What is served.
        listening: Where.
        started: Called when requests are welcome.
    """
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # what is wrong with a body, its sender is told
    server = make(service, started)
    Thread(target=_leave_in_time, args=(server, service.limits.grace), name="grace", daemon=True).start()
    server.run(sockets=[listening])
    # Not by Python's own end: it takes half a second with torch, and longer under load. And a thread that is still at
    # work would be waited for, or torn out of torch's hands with a crash.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _leave_in_time(server: Server, grace: float) -> None:
    """End the process when the grace ends, even if the event loop has no time for it."""
    server.signalled.wait()
    time.sleep(grace - LEAVING)
    os._exit(0)
