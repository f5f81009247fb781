"""Security headers that make every answer inert in a browser, and CORS: which other sites may read answers.

The service is for programs: a browser should neither render, frame, sniff nor cache an answer. Knows nothing of the
contents.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

INERT = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
INERT_RAW = tuple((name.lower().encode(), value.encode()) for name, value in INERT.items())
"""`INERT` in the form of ASGI messages."""

CORS_METHODS = ("GET", "POST", "PUT", "DELETE")
CORS_REQUEST_HEADERS = ("Authorization", "Content-Type", "X-Request-ID", "X-Unitok-Generation")
CORS_ANSWER_HEADERS = ("X-Request-ID", "Retry-After", "RateLimit", "RateLimit-Policy")


class SecurityHeaders:
    """Adds the headers to every answer that does not bring its own, as the page of the documentation does."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                missing = (header for header in INERT_RAW if header[0] not in given)
                message["headers"] = [*message["headers"], *missing]
            await send(message)

        await self._app(scope, receive, send_with_headers)


def allow_origins(app: Starlette, origins: Sequence[str]) -> None:
    """Let pages of these origins read answers (CORS), without cookies; without origins nothing is added."""
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=CORS_METHODS,
            allow_headers=CORS_REQUEST_HEADERS,
            expose_headers=CORS_ANSWER_HEADERS,
        )
