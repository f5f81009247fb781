"""Sends requests away before they are read, while the service has more to do than it can.

The outermost layer, in plain ASGI: such a request is neither routed nor parsed, its body is thrown away by the server
as it arrives, its key is not looked at, and its connection stays open. The answer is the one that a request gets which
is refused later. All are counted; the log says once a second how many there were.

Knows nothing of what the operations do, nor of when there is too much (see `service/line.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.browsers import INERT
from service.edge import REQUEST_ID, request_id_of
from service.errors import Overloaded
from service.line import Line
from service.logs import get_logger
from service.metrics import Metrics
from service.problems import error_response

LOG_SECONDS = 1.0

BODY_SECONDS = 0.02
"""Most bodies come with their heads; a request whose body takes longer is not counted until it is there."""


class Door:
    """Asks the line of an operation about each of its requests, by the head alone.

    Parameters
    ----------
    lines : by method and first part of the path; what is not there always passes
    """

    def __init__(self, app: ASGIApp, lines: Mapping[tuple[str, str], Line], metrics: Metrics) -> None:
        self._app = app
        self._lines = lines
        self._metrics = metrics
        self._refused: Counter[str] = Counter()
        self._log = get_logger("unitok.http")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        operation = scope["path"].partition("/")[2].partition("/")[0] if scope["type"] == "http" else ""
        line = self._lines.get((scope["method"], operation)) if operation else None
        if line is None:
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        try:
            line.look()
        except Overloaded as error:
            await self._refuse(scope, send, error)
            self._count(scope["method"], operation, started)
            return
        with line.reading() as count:
            await self._app(scope, _counted_body(receive, count), send)

    async def _refuse(self, scope: Scope, send: Send, error: Overloaded) -> None:
        scope["state"] = {"request_id": request_id_of(scope)}
        response = error_response(scope, error)
        response.headers.update({**INERT, REQUEST_ID: scope["state"]["request_id"]})
        if "expect" in Headers(scope=scope):
            # A client that asked whether to send its body may now leave it away; nobody could tell where it ends.
            response.headers["Connection"] = "close"
        await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
        await send({"type": "http.response.body", "body": response.body})

    def _count(self, method: str, operation: str, started: float) -> None:
        """Count a refusal, under the operation's name: its route is not known."""
        self._metrics.request(method, f"/{operation}", 429, time.perf_counter() - started)
        self._metrics.problem("overloaded")
        if not self._refused:
            asyncio.get_running_loop().call_later(LOG_SECONDS, self._say)
        self._refused[f"{method} /{operation}"] += 1

    def _say(self) -> None:
        self._log.info("requests refused unread", requests=dict(self._refused), seconds=LOG_SECONDS)
        self._refused.clear()


def _counted_body(receive: Receive, count: Callable[[bool], None]) -> Receive:
    """What receives a body and tells `count` when it is waited for, and when it is there.

    The time runs from when the body is asked for: under a flood that is long after the head came, and most bodies are
    there by then.
    """
    here = False

    async def receive_and_count() -> Message:
        nonlocal here
        if here:
            return await receive()
        slow = asyncio.get_running_loop().call_later(BODY_SECONDS, count, False)
        try:
            message = await receive()
        finally:
            slow.cancel()
        here = not message.get("more_body", False)
        if here:
            count(True)
        return message

    return receive_and_count
