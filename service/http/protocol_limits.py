"""Limits, in bytes and seconds, on what a connection may cost besides bodies; enforced in the HTTP parser's protocol.

They cover the head of a request, the trailer fields of a chunked body, a request that was refused unread, and an answer
that the client does not read. An unusable head is answered with problem details like any other error, and its
connection is closed, because the start of the next request is unknown. Knows nothing of what requests mean.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sized
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.http.browser_headers import INERT_RAW
from service.http.problems import (
    CONTENT_TYPE,
    HEAD_TOO_LARGE,
    HEAD_TOO_SLOW,
    MALFORMED_HEAD,
    TARGET_TOO_LONG,
    Kind,
    problem_body,
)

MAX_TARGET_BYTES = 16 * 1024
"""Limit on path and query; the longest that an endpoint needs holds an item id of 512 bytes, percent-encoded."""

MAX_HEAD_BYTES = 64 * 1024
"""Limit on a head, counted by the chunks in which it arrives, except the first."""

MOST_HEAD_SECONDS = 15.0
"""Time limit from the connection, or from the first byte after an answer, to the end of the head; for a request that
was turned away, also from there to its end."""

MOST_STALLED_SECONDS = 30.0
"""How long a client may read nothing of an answer that is being sent; after that it counts as disconnected."""


MOST_WAITING = 512
"""Pipelined requests of one connection that may wait for earlier answers. They arrive in one chunk: a quarter of a
megabyte can hold fourteen thousand, which take fifty times as much memory."""


class PatientFlow(FlowControl):
    """Flow control that does not read from the connection while pipelined requests wait.

    uvicorn stops reading when a request has to wait, but resumes as soon as the application asks for the body of
    another, which has already arrived. Each answered request would then let in several more, with their bodies.
    """

    def __init__(self, transport: asyncio.Transport, waiting: Sized) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        """Resume reading, unless pipelined requests wait."""
        if not self._waiting:
            super().resume_reading()


class LimitedProtocol(HttpToolsProtocol):
    """HTTP protocol of one connection, with the limits of this module."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._in_head = False
        self._head_ended = False
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._open = False
        self._quiet_bytes = 0
        self._upgrading = False
        self._stalled_timer: asyncio.TimerHandle | None = None
        self._wrong = (MALFORMED_HEAD, "The request is not HTTP/1.1 as RFC 9112 has it.")

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self.flow = PatientFlow(transport, self.pipeline)
        self._head_timer = self.loop.call_later(MOST_HEAD_SECONDS, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._stop_timer()
        self._stop_stalled()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """A chunk of one or several requests has arrived."""
        was_in_head, self._head_ended = self._in_head, False
        self._quiet_bytes += len(data)
        self._unset_keepalive_if_required()
        self._feed(memoryview(data))
        if self.transport.is_closing():
            return
        if self._head_ended or not (self._in_head or self.discarding):
            self._stop_timer()
        if self._in_head:
            # If a head ended in this chunk, the current one began in it.
            continued = was_in_head and not self._head_ended
            self._head_bytes = self._head_bytes + len(data) if continued else 0
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(HEAD_TOO_LARGE, f"The head of a request may have {MAX_HEAD_BYTES} bytes.")
                return
        elif self._open and self._quiet_bytes > MAX_HEAD_BYTES:
            # Neither head nor body: trailer fields, or the extensions of a chunk.
            self._refuse(HEAD_TOO_LARGE, f"The fields behind a body may have {MAX_HEAD_BYTES} bytes.")
            return
        if self._in_head or self.discarding:
            if self._head_timer is None:
                self._head_timer = self.loop.call_later(MOST_HEAD_SECONDS, self._head_is_late)
        elif self.timeout_keep_alive_task is None and not self._answering():
            # uvicorn stops the keep-alive timer whenever data arrives, but starts it only at the end of an answer.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _feed(self, data: memoryview) -> None:
        """Feed the parser a chunk, ignoring requests to upgrade to another protocol.

        The parser takes all bytes after such a head for the other protocol. No other is supported here, and a server
        that ignores an upgrade, as RFC 9110 allows, must read the body. So a new parser gets the head again, without
        the upgrade field.
        """
        try:
            while data:
                try:
                    self.parser.feed_data(data)
                    return
                except httptools.HttpParserUpgrade as ended:
                    data = data[ended.args[0] :]
                    head = self._head_without_upgrade()
                    self._upgrading, self.parser = False, httptools.HttpRequestParser(self)
                    self.parser.feed_data(head)
        except httptools.HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("")

    def _head_without_upgrade(self) -> bytes:
        line = b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        fields = [b"%b: %b" % field for field in self.headers if field[0] != b"upgrade"]
        return b"\r\n".join([line, *fields, b"", b""])

    def on_message_begin(self) -> None:
        """The first byte of a request has arrived; called by the parser."""
        self._in_head = self._open = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field is complete; called by the parser. Trailer fields are not used, so they are dropped."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head of a request is complete; called by the parser, to which an error reports that it is unusable."""
        self._in_head, self._head_ended, self._quiet_bytes = False, True, 0
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise ValueError("only a proxy connects")
            self._upgrading = True
            return
        if len(self.url) > MAX_TARGET_BYTES:
            detail = f"Path and query of a request may have {MAX_TARGET_BYTES} bytes; these have {len(self.url)}."
            self._wrong = (TARGET_TOO_LONG, detail)
            raise ValueError(detail)
        if len(self.pipeline) == MOST_WAITING:
            raise ValueError("too many requests wait")
        # uvicorn checks this too, but too late: by then the request counts as admitted.
        httptools.parse_url(self.url).path.decode("ascii")
        self.head_complete()

    def head_complete(self) -> None:
        """A usable head is complete."""
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of a body has arrived; called by the parser."""
        self._quiet_bytes = 0
        self.body_arrived(body)

    def body_arrived(self, body: bytes) -> None:
        """A part of a body has arrived."""
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is complete; called by the parser."""
        self._open = False
        if not self._upgrading:
            self.message_complete()

    def message_complete(self) -> None:
        """A request is complete."""
        super().on_message_complete()

    @property
    def discarding(self) -> bool:
        """Whether the rest of a request is being discarded that was refused without a task."""
        return False

    def pause_writing(self) -> None:
        """The client reads too slowly and the write buffer is full; called by the transport."""
        super().pause_writing()
        if self._stalled_timer is None:
            self._stalled_timer = self.loop.call_later(MOST_STALLED_SECONDS, self._let_go)

    def resume_writing(self) -> None:
        """The client reads again; called by the transport."""
        super().resume_writing()
        self._stop_stalled()

    def _let_go(self) -> None:
        self._stalled_timer = None
        if self.cycle is not None:
            self.cycle.disconnected = True  # Otherwise the application would write to a closed transport.
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Answer an unusable head; called when the parser found an error."""
        self._refuse(*self._wrong)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self.transport.is_closing():
            return
        if self._answering():
            self._head_timer = self.loop.call_later(MOST_HEAD_SECONDS, self._head_is_late)
        elif self._in_head:
            self._refuse(HEAD_TOO_SLOW, f"The head of a request must be there within {MOST_HEAD_SECONDS:g} s.")
        else:
            self.transport.close()  # A connection without any request.

    def _answering(self) -> bool:
        """Whether the answer to an earlier request is in progress."""
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, kind: Kind, detail: str) -> None:
        if self._answering():
            self.transport.close()  # No error can be sent in the middle of another answer.
            return
        request_id = uuid.uuid4().hex
        body = problem_body({"path": "", "state": {"request_id": request_id}}, kind, detail)
        headers = (
            *self.server_state.default_headers,
            (b"content-type", CONTENT_TYPE.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", request_id.encode()),
            (b"connection", b"close"),
            *INERT_RAW,
        )
        lines = [b"%b: %b\r\n" % header for header in headers]
        self.transport.write(b"".join((STATUS_LINE[int(kind.status)], *lines, b"\r\n", body)))
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_stalled(self) -> None:
        if self._stalled_timer is not None:
            self._stalled_timer.cancel()
            self._stalled_timer = None
