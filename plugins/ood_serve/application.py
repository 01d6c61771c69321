"""The HTTP paths. Errors are `{"error": "..."}`, without internals."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ood_core.errors import suggest
from ood_serve import page
from ood_serve.errors import RequestError
from ood_serve.schemas import Error, InternalError, ScoreQuery, ScoreResponse, encode_response
from ood_serve.service import Service

LOG = logging.getLogger(__name__)

PATHS = {
    "/": "GET",
    "/score": "POST",
    "/healthz": "GET",
    "/readyz": "GET",
    "/metrics": "GET",
    "/docs": "GET",
    "/openapi.json": "GET",
}

DETECTOR, OPERATION = "Detector", "Operation"

TAGS = [
    {"name": DETECTOR, "description": "Score images."},
    {"name": OPERATION, "description": "Health and metrics."},
]

FAILURES: dict[int | str, dict[str, Any]] = {
    400: {"model": Error, "description": "No image, an empty or a broken body."},
    408: {"model": Error, "description": "The body did not arrive in time."},
    413: {"model": Error, "description": "Too many bytes, pixels or images."},
    415: {"model": Error, "description": "The body is neither multipart/form-data nor image/*."},
    422: {"model": Error, "description": "No image can be read, or the detector cannot do what the query asks."},
    500: {"model": InternalError, "description": "An error of the service."},
    503: {"model": Error, "description": "Too many images are waiting, or the service is stopping; see Retry-After."},
    504: {"model": Error, "description": "The images were not scored in time."},
}

BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "image": {"type": "array", "items": {"type": "string", "format": "binary"}},
                },
                "required": ["image"],
            }
        },
        "image/*": {"schema": {"type": "string", "format": "binary"}},
    },
}

CLOSED_BY_CLIENT = 499
"""Status under which such requests are counted; it is never received."""


def application(service: Service, started: Callable[[], None] = lambda: None) -> FastAPI:
    """Return the service as an ASGI application; its threads begin and end with the lifespan.

    Args:
        service: The service.
        started: Called when the service is ready.
    """

    async def begin() -> None:
        try:
            await service.open()
        except Exception:
            LOG.exception("the first image did not pass")
        else:
            started()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        beginning = asyncio.create_task(begin())  # meanwhile /healthz is answered
        yield
        beginning.cancel()
        await run_in_threadpool(service.close)

    made: FastAPI = FastAPIOffline(
        title="OOD detection",
        description=f"Out-of-distribution detection with '{service.state.origin.name}'.",
        version="1",
        redoc_url=None,
        swagger_ui_parameters={"validatorUrl": None},  # an external host
        openapi_tags=TAGS,
        lifespan=lifespan,
    )
    _add_score(made, service)
    _add_others(made, service)
    _add_failures(made, service)
    made.add_middleware(Guard, service=service)
    return made


def _add_score(made: FastAPI, service: Service) -> None:
    @made.post(
        "/score",
        response_model=ScoreResponse,
        responses=FAILURES,
        openapi_extra={"requestBody": BODY},
        tags=[DETECTOR],
        summary="Score images and decide on each",
    )
    async def score(request: Request, query: Annotated[ScoreQuery, Query()]) -> Response:
        """Take one picture as the body, or one or several as files of a form; answers come in their order."""
        return Response(encode_response(await service.score(request, query)), media_type="application/json")


def _add_others(made: FastAPI, service: Service) -> None:
    shown = page.render(service.state)

    @made.get("/", include_in_schema=False)
    async def root() -> Response:
        return HTMLResponse(shown, headers=page.HEADERS)

    @made.get("/healthz", tags=[OPERATION], summary="Liveness of the process")
    async def healthz() -> dict[str, str]:
        """ScoreResponse as long as there is somebody to answer."""
        return {"status": "live"}

    @made.get("/readyz", responses={503: FAILURES[503]}, tags=[OPERATION], summary="Readiness for requests")
    async def readyz() -> dict[str, str]:
        """ScoreResponse 200 once an image has passed the network, until the service is told to stop."""
        if service.admission.stopping:
            raise RequestError(503, "the service is stopping", "not ready")
        if not service.ready:
            raise RequestError(503, "the first image has not passed yet", "not ready")
        return {"status": "ready"}

    @made.get("/metrics", response_class=Response, tags=[OPERATION], summary="Metrics for Prometheus")
    async def metrics() -> Response:
        """Return counts, times and the tests for drift, in Prometheus' text format."""
        return Response(await run_in_threadpool(service.monitor.text), headers={"Content-Type": CONTENT_TYPE_LATEST})


# ------------------------------------------------------------------------------------------------------- failures


def _add_failures(made: FastAPI, service: Service) -> None:
    def answer(failure: RequestError) -> Response:
        service.monitor.errors.labels(failure.kind).inc()
        return JSONResponse({"error": failure.message}, failure.status, failure.headers)

    @made.exception_handler(RequestError)
    async def failed(_: Request, error: RequestError) -> Response:
        return answer(error)

    @made.exception_handler(RequestValidationError)
    async def wrong_query(_: Request, error: RequestValidationError) -> Response:
        return answer(RequestError(422, _wrong_query(error), "query"))

    @made.exception_handler(HTTPException)
    async def wrong_path(request: Request, error: HTTPException) -> Response:
        path = request.url.path
        if error.status_code == 405:
            message = f"{request.method} {path} is not possible, only {PATHS.get(path, 'GET')}"
            return answer(RequestError(405, message, "path", error.headers))
        if error.status_code == 404:
            return answer(RequestError(404, f"no such path '{path}'.{suggest(path, PATHS)}", "path"))
        return answer(RequestError(error.status_code, str(error.detail), "path", error.headers))

    @made.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: ClientDisconnect) -> Response:
        return answer(RequestError(CLOSED_BY_CLIENT, "the client has gone", "gone"))


def _wrong_query(error: RequestValidationError) -> str:
    first = error.errors()[0]
    name = str(first["loc"][-1])
    if first["type"] == "extra_forbidden":
        return f"no query parameter '{name}'.{suggest(name, ScoreQuery.model_fields)}"
    reason = str(first["msg"]).removeprefix("Input should be ").partition(",")[0]
    return f"query parameter '{name}' must be {reason}, not '{first['input']}'"


class Guard:
    """The outermost layer: an error of the service is logged with an id, and the client receives the id alone.

    Args:
        app: The wrapped application.
        service: The service whose metrics it updates.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._monitor = app, service.monitor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception:
            known = uuid.uuid4().hex[:12]
            LOG.exception("internal error %s: %s %s", known, scope["method"], scope["path"])
            self._monitor.errors.labels("internal").inc()
            if status:
                raise  # the response has begun: it can only be cut off
            await JSONResponse({"error": "internal error", "id": known}, 500)(scope, receive, noting)
        if scope["path"] == "/score":
            self._monitor.requests.labels(str(status)).observe(time.perf_counter() - began)
