"""Security headers of every response: nothing is framed, sniffed, stored or loaded from another host."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

_NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_OWN = "style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline'; connect-src 'self'"
POLICIES = {
    "/": f"{_NOTHING}; {_OWN}; img-src data: blob:",
    "/docs": f"{_NOTHING}; {_OWN}; img-src 'self' data:",
}
"""Content security policies of the two pages, whose scripts and styles are in them or beside them."""


def headers_of(path: str) -> dict[str, str]:
    """Return the security headers of a response to this path."""
    return HEADERS | {"Content-Security-Policy": POLICIES.get(path, _NOTHING)}


def add_headers(app: ASGIApp) -> ASGIApp:
    """Wrap the application: every response has the security headers."""

    async def secured(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers_of(scope["path"]))
            await send(message)

        await app(scope, receive, send_secured if scope["type"] == "http" else send)

    return secured
