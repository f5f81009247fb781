"""Load shedding: refuses requests before they are read, while the service is overloaded.

Such a request is neither routed nor parsed, its API key is not looked at, its body is discarded by the server as it
arrives, and its connection stays open. The answer is the same as for a request that is refused later. All refusals are
counted; the log says once a second how many there were.

`Shedder` decides. It is asked where HTTP is parsed (see `service/http/protocol_shedding.py`). `SheddingMiddleware`, the
outermost layer of the application, asks it about all other requests: those that the protocol leaves to it, and every
request under another server. Knows nothing of what the operations do, nor of when there is too much (see
`service/overload/early_admission.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Overloaded
from service.http.browser_headers import INERT_RAW
from service.http.middleware import REQUEST_ID, request_id_of
from service.http.problems import CONTENT_TYPE, TABLE, problem_body
from service.http.protocol_shedding import Refusal
from service.logs import get_logger
from service.metrics import Metrics
from service.overload.early_admission import EarlyAdmission, Reading

LOG_SECONDS = 1.0

BODY_SECONDS = 0.02
"""Most bodies arrive with their heads; a request whose body takes longer is not counted until it has arrived."""

ADMITTED = "admitted"
"""Key in a request's state that holds the `Reading` of an admitted request until the application takes it."""

KIND = TABLE[Overloaded]
ALWAYS = ((b"content-type", CONTENT_TYPE.encode()), *INERT_RAW)
REQUEST_ID_RAW = REQUEST_ID.lower().encode()


class Shedder:
    """Decides on each request by its head alone, by asking the `EarlyAdmission` of its operation.

    Parameters
    ----------
    early : by method and first part of the path; any other request passes
    """

    def __init__(self, early: Mapping[tuple[str, str], EarlyAdmission], metrics: Metrics) -> None:
        self._early = early
        self._counts = {
            (method, operation): metrics.turned_away(method, f"/{operation}", KIND.name) for method, operation in early
        }
        self._refused: Counter[tuple[str, str]] = Counter()
        self._log = get_logger("unitok.http")

    def turn_away(self, scope: Scope) -> Refusal | None:
        """The answer to a request that is refused; None for one that is admitted, which counts as being read."""
        operation = (scope["method"], scope["path"].partition("/")[2].partition("/")[0])
        early = self._early.get(operation)
        if early is None:
            return None
        started = time.perf_counter()
        state = scope.setdefault("state", {})
        try:
            early.look()
        except Overloaded as error:
            state["request_id"] = request_id_of(scope)
            refusal = _refusal(scope, error)
            self._count(operation, time.perf_counter() - started)
            return refusal
        state[ADMITTED] = early.reading()
        return None

    def _count(self, operation: tuple[str, str], seconds: float) -> None:
        """Count a refusal under the operation's name, because the request was not routed."""
        self._counts[operation](seconds)
        if not self._refused:
            asyncio.get_running_loop().call_later(LOG_SECONDS, self._say)
        self._refused[operation] += 1

    def _say(self) -> None:
        requests = {f"{method} /{operation}": count for (method, operation), count in self._refused.items()}
        self._log.info("requests refused unread", requests=requests, seconds=LOG_SECONDS)
        self._refused.clear()


class SheddingMiddleware:
    """The outermost ASGI middleware: asks the shedder about requests on which it has not decided yet."""

    def __init__(self, app: ASGIApp, shedder: Shedder) -> None:
        self._app = app
        self._shedder = shedder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if ADMITTED not in scope.get("state", {}):
            refusal = self._shedder.turn_away(scope)
            if refusal is not None:
                await _send(refusal, scope, send)
                return
        reading: Reading | None = scope.get("state", {}).pop(ADMITTED, None)
        if reading is None:
            await self._app(scope, receive, send)
            return
        with reading:
            await self._app(scope, _counted_body(receive, reading.count), send)


def _refusal(scope: Scope, error: Overloaded) -> Refusal:
    body = problem_body(scope, KIND, str(error))
    headers = (
        (b"content-length", b"%d" % len(body)),
        (b"retry-after", b"%d" % error.retry_after),
        (REQUEST_ID_RAW, scope["state"]["request_id"].encode()),
        *ALWAYS,
    )
    return Refusal(int(KIND.status), headers, body)


async def _send(refusal: Refusal, scope: Scope, send: Send) -> None:
    headers = list(refusal.headers)
    if "expect" in Headers(scope=scope):
        # A client that sent `Expect` may now omit its body, so the start of the next request is unknown.
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": refusal.body})


def _counted_body(receive: Receive, count: Callable[[bool], None]) -> Receive:
    """Wrap `receive` so that `count` is called when the body is late (False) and when it has arrived (True).

    The time runs from when the body is asked for: under a flood that is long after the head, and most bodies have
    arrived by then.
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
