"""Outer middleware of the app: request ids, the access log, body limits, and client disconnects.

Plain ASGI, because it must see a request before its body is read and an answer after it is sent. Knows nothing of what
the routes do.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Collection
from email.message import Message as HeaderMessage
from functools import lru_cache

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Overloaded
from service.http.problems import TOO_LARGE, TOO_SLOW, WRONG_TYPE, error_response, problem_response
from service.logs import get_logger
from service.metrics import Metrics
from service.overload.body_memory import SMALL_BYTES, BodyMemory, Share

REQUEST_ID = "X-Request-ID"
SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
CLIENT_LEFT = 499
"""Status in the log and the metrics when the client disconnected before its answer; it is never sent."""
LINGER_BYTES = 32 * 2**20
LINGER_SECONDS = 5.0
"""How much of a refused body is read and discarded, and for how long, so that the client can read the answer."""

AS_IT_IS = "identity"
"""The only content encoding accepted: a small compressed body may expand into a very large one."""

QUIET_PATHS = frozenset({"/livez", "/readyz", "/metrics"})
"""Polled by machines every few seconds; logged at debug level."""


class RequestContext:
    """Gives every request an id and a line in the access log, and turns uncaught exceptions into an answer.

    A caller's own `X-Request-ID` is kept if it is valid, else one is made; it is always sent back.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        self._log = get_logger("unitok.http")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_of(scope)
        # A copy, because all requests share the server's state.
        scope["state"] = {**scope.get("state", {}), "request_id": request_id}
        started, status = time.perf_counter(), CLIENT_LEFT

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        trace_id = self._metrics.tracing.trace_id()
        ids = {"request_id": request_id} if trace_id is None else {"request_id": request_id, "trace_id": trace_id}
        with structlog.contextvars.bound_contextvars(**ids):
            try:
                await self._app(scope, receive, send_with_id)
            except Exception as error:
                self._log.exception("request failed", path=scope["path"])
                if status == CLIENT_LEFT:
                    await error_response(scope, error)(scope, receive, send_with_id)
            finally:
                seconds = time.perf_counter() - started
                self._metrics.request(scope["method"], _route(scope), status, seconds)
                if "problem" in scope["state"]:
                    self._metrics.problem(scope["state"]["problem"])
                # Set by inner layers: the name of the key, and the kind of problem in the answer.
                found = {name: scope["state"][name] for name in ("key", "problem") if name in scope["state"]}
                log = self._log.debug if scope["path"] in QUIET_PATHS else self._log.info
                log(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    milliseconds=round(1000 * seconds, 1),
                    **found,
                )


class BodyGuard:
    """Reads the whole body, within limits and only if it is uncompressed JSON, and cancels work on disconnect.

    The limits are enforced while reading: a body must arrive within `seconds`, at most `max_bytes` of it are held in
    memory, and all bodies together must fit into `memory`. On `open_paths`, which need no key, a body must be small;
    otherwise callers without a key could use up the memory meant for those with one.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        open_paths: Collection[str],
        max_bytes: int,
        memory: BodyMemory,
        seconds: float,
        metrics: Metrics,
    ) -> None:
        self._app = app
        self._open_paths = open_paths
        self._max_bytes = max_bytes
        self._memory = memory
        self._seconds = seconds
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        if "content-length" not in headers and "transfer-encoding" not in headers:
            await self._app(scope, receive, send)
            return
        most = min(self._max_bytes, SMALL_BYTES) if scope["path"] in self._open_paths else self._max_bytes
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > most:
            await self._refuse_size(scope, receive, send, most)
            return
        encoding = headers.get("content-encoding", AS_IT_IS)
        if encoding.strip().lower() != AS_IT_IS:
            await self._refuse_encoding(scope, receive, send, encoding)
            return
        if length != "0" and not _is_json(headers.get("content-type")):
            await self._refuse_type(scope, receive, send, headers.get("content-type"))
            return
        with self._memory.share() as share:
            await self._read_and_run(scope, most, share, receive, send)

    async def _read_and_run(self, scope: Scope, most: int, share: Share, receive: Receive, send: Send) -> None:
        read = bytearray()
        more = True
        try:
            async with asyncio.timeout(self._seconds):
                while more and len(read) <= most:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    share.hold(len(read) + len(message.get("body", b"")))
                    read += message.get("body", b"")
                    more = message.get("more_body", False)
        except TimeoutError:
            await self._refuse_time(scope, receive, send)
            return
        except Overloaded as error:
            read.clear()
            share.hold(0)
            await self._refuse_room(scope, receive, send, error, more)
            return
        if len(read) > most:
            read.clear()
            share.hold(0)
            await self._refuse_size(scope, receive, send, most, more)
            return
        body = bytes(read)
        read.clear()
        await self._run(scope, body, receive, send)

    async def _run(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Run the app on a body, and cancel it if the client disconnects before the answer is complete."""
        left = asyncio.Event()
        unread, answered, stopped = True, False, False
        task = asyncio.current_task()

        async def replay() -> Message:
            nonlocal unread
            if unread:
                unread = False
                return {"type": "http.request", "body": body, "more_body": False}
            await left.wait()
            return {"type": "http.disconnect"}

        async def send_and_note(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                answered = True
            await send(message)

        async def watch() -> None:
            nonlocal stopped
            while (await receive())["type"] != "http.disconnect":
                pass
            left.set()
            if task is not None and not answered:
                stopped = True
                task.cancel()

        watcher = asyncio.create_task(watch())
        try:
            await self._app(scope, replay, send_and_note)
        except asyncio.CancelledError:
            # The cancellation may also come from outside; then the whole task has to end.
            if not stopped or task is None or task.uncancel():
                raise
        finally:
            watcher.cancel()

    async def _refuse_size(self, scope: Scope, receive: Receive, send: Send, most: int, more: bool = True) -> None:
        self._metrics.rejected("body_too_large")
        detail = f"the body has more than {most} bytes; send fewer items a request"
        response = problem_response(scope, TOO_LARGE, detail, headers={"Connection": "close"})
        await answer_and_linger(response, receive, send, more)

    async def _refuse_room(self, scope: Scope, receive: Receive, send: Send, error: Overloaded, more: bool) -> None:
        self._metrics.rejected("overloaded")
        response = error_response(scope, error)
        response.headers["Connection"] = "close"
        await answer_and_linger(response, receive, send, more)

    async def _refuse_time(self, scope: Scope, receive: Receive, send: Send) -> None:
        detail = f"the body did not arrive within {self._seconds:g} s"
        await problem_response(scope, TOO_SLOW, detail, headers={"Connection": "close"})(scope, receive, send)

    async def _refuse_type(self, scope: Scope, receive: Receive, send: Send, given: str | None) -> None:
        detail = f"content-type is {given or 'missing'}, but must be application/json (in UTF-8)"
        response = problem_response(scope, WRONG_TYPE, detail, headers={"Connection": "close"})
        await answer_and_linger(response, receive, send, more=True)

    async def _refuse_encoding(self, scope: Scope, receive: Receive, send: Send, given: str) -> None:
        detail = f"Content-Encoding is {given}, but the body must come uncompressed"
        headers = {"Connection": "close", "Accept-Encoding": AS_IT_IS}
        response = problem_response(scope, WRONG_TYPE, detail, headers=headers)
        await answer_and_linger(response, receive, send, more=True)


async def answer_and_linger(response: Response, receive: Receive, send: Send, more: bool) -> None:
    """Send a complete answer, then read what the client still sends (if there is `more`) before closing.

    Closing at once would reset the connection, and many clients would then lose the answer.
    """
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": bytes(response.body), "more_body": True})
    thrown_away = 0
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            while more and thrown_away < LINGER_BYTES:
                message = await receive()
                thrown_away += len(message.get("body", b""))
                more = message.get("more_body", False)
    except TimeoutError:
        pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def request_id_of(scope: Scope) -> str:
    """The caller's own `X-Request-ID` if it is valid, else a new one."""
    given = Headers(scope=scope).get(REQUEST_ID, "")
    return given if SANE_REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


@lru_cache(maxsize=64)
def _is_json(content_type: str | None) -> bool:
    """Whether a content type is JSON in UTF-8, the only encoding that JSON allows."""
    if content_type is None:
        return False
    message = HeaderMessage()
    message["content-type"] = content_type
    charset = message.get_param("charset", "utf-8")
    subtype = message.get_content_subtype()
    return (
        message.get_content_maintype() == "application"
        and (subtype == "json" or subtype.endswith("+json"))
        and str(charset).lower() in {"utf-8", "utf8"}
    )


def _route(scope: Scope) -> str:
    """Path template of the matched route, so that the number of metric labels does not grow with the paths."""
    path = getattr(scope.get("route"), "path_format", None)
    return path if isinstance(path, str) else "none"
