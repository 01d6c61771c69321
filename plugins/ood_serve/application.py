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
from ood_core.escapes import printable
from ood_serve import page
from ood_serve.headers import add_headers
from ood_serve.limits import RequestError
from ood_serve.monitoring import Monitor
from ood_serve.schemas import Error, InternalError, ScoreQuery, ScoreResponse, encode_response
from ood_serve.service import Service

LOG = logging.getLogger(__name__)

PATHS = ("/", "/score", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json")

TAGS = [
    {"name": "Detector", "description": "Score images."},
    {"name": "Operation", "description": "Health and metrics."},
]

FAILURES: dict[int | str, dict[str, Any]] = {
    400: {"model": Error, "description": "No image, an empty or a broken body."},
    408: {"model": Error, "description": "The body did not arrive in time, or too slowly."},
    413: {"model": Error, "description": "Too many bytes, pixels or images."},
    415: {"model": Error, "description": "The body is neither multipart/form-data nor image/*."},
    422: {"model": Error, "description": "No image can be read, or the detector cannot do what the query asks."},
    429: {"model": Error, "description": "Too many bodies of this address are still arriving; see Retry-After."},
    500: {"model": InternalError, "description": "An error of the service."},
    503: {"model": Error, "description": "Too many images are waiting, or the service is stopping; see Retry-After."},
    504: {"model": Error, "description": "The images were not scored in time."},
}

FILE = {"type": "string", "format": "binary"}
FORM = {"type": "object", "properties": {"image": {"type": "array", "items": FILE}}, "required": ["image"]}
BODY = {"required": True, "content": {"multipart/form-data": {"schema": FORM}, "image/*": {"schema": FILE}}}

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
    _add_paths(made, service)

    async def answer_error(request: Request, error: Exception) -> Response:
        failure = _as_request_error(request, error)
        service.monitor.errors.labels(failure.kind).inc()
        return JSONResponse({"error": failure.message}, failure.status, failure.headers)

    for kind in (RequestError, RequestValidationError, HTTPException, ClientDisconnect):
        made.add_exception_handler(kind, answer_error)
    made.add_middleware(hide_errors, monitor=service.monitor)
    made.add_middleware(add_headers)
    return made


def _add_paths(made: FastAPI, service: Service) -> None:
    shown = page.render(service.state)

    @made.post(
        "/score",
        response_model=ScoreResponse,
        responses=FAILURES,
        openapi_extra={"requestBody": BODY},
        tags=["Detector"],
        summary="Score images and decide on each",
    )
    async def score(request: Request, query: Annotated[ScoreQuery, Query()]) -> Response:
        """Take one picture as the body, or one or several as files of a form; answers come in their order."""
        return Response(encode_response(await service.score(request, query)), media_type="application/json")

    @made.get("/", include_in_schema=False)
    async def root() -> Response:
        return HTMLResponse(shown)

    @made.get("/healthz", tags=["Operation"], summary="Liveness of the process")
    async def healthz() -> dict[str, str]:
        """Answer 200 as long as the process can."""
        return {"status": "live"}

    @made.get("/readyz", responses={503: FAILURES[503]}, tags=["Operation"], summary="Readiness for requests")
    async def readyz() -> dict[str, str]:
        """Answer 200 from the first image that passed the network to the stop of the service."""
        if service.admission.stopping:
            raise RequestError(503, "the service is stopping", "not ready")
        if not service.ready:
            raise RequestError(503, "the first image has not passed yet", "not ready")
        return {"status": "ready"}

    @made.get("/metrics", response_class=Response, tags=["Operation"], summary="Metrics for Prometheus")
    async def metrics() -> Response:
        """Return counts, times and the tests for drift, in Prometheus' text format."""
        return Response(await run_in_threadpool(service.monitor.text), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _as_request_error(request: Request, error: Exception) -> RequestError:
    path = request.url.path
    match error:
        case RequestError():
            return error
        case RequestValidationError():
            return RequestError(422, _query_error(error), "query")
        case HTTPException(status_code=405):
            allowed = "POST" if path == "/score" else "GET"
            return RequestError(405, f"{request.method} {path} is not possible, only {allowed}", "path", error.headers)
        case HTTPException(status_code=404):
            return RequestError(404, f"no such path '{path}'.{suggest(path, PATHS)}", "path")
        case HTTPException():
            return RequestError(error.status_code, str(error.detail), "path", error.headers)
    return RequestError(CLOSED_BY_CLIENT, "the client has gone", "gone")


def _query_error(error: RequestValidationError) -> str:
    first = error.errors()[0]
    name = str(first["loc"][-1])
    if first["type"] == "extra_forbidden":
        return f"no query parameter '{name}'.{suggest(name, ScoreQuery.model_fields)}"
    reason = str(first["msg"]).removeprefix("Input should be ").partition(",")[0]
    return f"query parameter '{name}' must be {reason}, not '{first['input']}'"


def hide_errors(app: ASGIApp, monitor: Monitor) -> ASGIApp:
    """Wrap the application: an error of the service is logged with an id, and the client receives the id alone."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await app(scope, receive, note_status)
        except Exception:
            error_id = uuid.uuid4().hex[:12]
            LOG.exception("internal error %s: %s %s", error_id, scope["method"], printable(scope["path"]))
            monitor.errors.labels("internal").inc()
            if status:
                raise  # the response has begun: it can only be cut off
            await JSONResponse({"error": "internal error", "id": error_id}, 500)(scope, receive, note_status)
        if scope["path"] == "/score":
            monitor.requests.labels(str(status)).observe(time.perf_counter() - began)

    return guarded
