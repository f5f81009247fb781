"""Bounds what a connection may cost besides bodies, in bytes and in time, where HTTP is parsed.

That is the head of a request, the fields behind a body in chunks, a request that was refused unread, and an answer that
nobody reads. A head that cannot be used is answered with problem details like any other mistake, and its connection is
closed: where the next request begins is not known. Knows nothing of what requests mean.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sized
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.browsers import INERT_RAW
from service.problems import (
    CONTENT_TYPE,
    HEAD_TOO_LARGE,
    HEAD_TOO_SLOW,
    MALFORMED_HEAD,
    TARGET_TOO_LONG,
    Kind,
    problem_body,
)

MAX_TARGET_BYTES = 16 * 1024
"""Of path and query; the longest that an endpoint needs names an item in 512 bytes, percent-encoded."""

MAX_HEAD_BYTES = 64 * 1024
"""Counted by the pieces in which it arrives, the first of them aside."""

MOST_HEAD_SECONDS = 15.0
"""From the connection, or from the first byte after an answer, to the end of the head; for a request that was turned
away, also from there to its end."""

MOST_STALLED_SECONDS = 30.0
"""For which a client may read nothing of an answer that waits for it; it then counts as gone."""


MOST_WAITING = 512
"""Requests of one connection that may wait for the answer to the one before them. They have come in one piece with it;
a quarter of a megabyte can hold fourteen thousand, which take fifty times as much as they came in."""


class PatientFlow(FlowControl):
    """Reads nothing while requests wait for the answer to the one before them.

    uvicorn stops reading when one has to wait, but reads on as soon as the application asks for the body of another,
    which is there already. Each request that is answered would let in several, and their bodies.
    """

    def __init__(self, transport: asyncio.Transport, waiting: Sized) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        """Read on, unless requests wait."""
        if not self._waiting:
            super().resume_reading()


class HeadsProtocol(HttpToolsProtocol):
    """One connection."""

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
        """Somebody has connected."""
        super().connection_made(transport)
        self.flow = PatientFlow(transport, self.pipeline)
        self._head_timer = self.loop.call_later(MOST_HEAD_SECONDS, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._stop_timer()
        self._stop_stalled()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """A piece of a request, or of several, is there."""
        was_in_head, self._head_ended = self._in_head, False
        self._quiet_bytes += len(data)
        self._unset_keepalive_if_required()
        self._feed(memoryview(data))
        if self.transport.is_closing():
            return
        if self._head_ended or not (self._in_head or self.discarding):
            self._stop_timer()
        if self._in_head:
            # Where a head has ended in this piece, the one that is open now began in it.
            continued = was_in_head and not self._head_ended
            self._head_bytes = self._head_bytes + len(data) if continued else 0
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(HEAD_TOO_LARGE, f"The head of a request may have {MAX_HEAD_BYTES} bytes.")
                return
        elif self._open and self._quiet_bytes > MAX_HEAD_BYTES:
            # Neither a head nor a body: fields behind a body in chunks, or what a chunk says of itself.
            self._refuse(HEAD_TOO_LARGE, f"The fields behind a body may have {MAX_HEAD_BYTES} bytes.")
            return
        if self._in_head or self.discarding:
            if self._head_timer is None:
                self._head_timer = self.loop.call_later(MOST_HEAD_SECONDS, self._head_is_late)
        elif self.timeout_keep_alive_task is None and not self._answering():
            # Uvicorn stops this clock whenever something arrives, and starts it with the end of an answer alone.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _feed(self, data: memoryview) -> None:
        """Give the parser a piece, as if nobody ever asked for another protocol than HTTP.

        The parser takes what follows such a head for that other protocol. None is spoken here, and a server that
        ignores an upgrade, as RFC 9110 lets it, has to read the body: so it gets the head once more, without the wish.
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
        """The first byte of a request is there; called by the parser."""
        self._in_head = self._open = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field is there; called by the parser. Nobody reads those behind a body, so they are left away."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head of a request is there; called by the parser, which is told by an error that it cannot be used."""
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
        # What uvicorn asks of it as well, but too late: by then the request counts as one that is let in.
        httptools.parse_url(self.url).path.decode("ascii")
        self.head_complete()

    def head_complete(self) -> None:
        """A head that can be used is there."""
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of a body is there; called by the parser."""
        self._quiet_bytes = 0
        self.body_arrived(body)

    def body_arrived(self, body: bytes) -> None:
        """A part of a body is there."""
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is there in full; called by the parser."""
        self._open = False
        if not self._upgrading:
            self.message_complete()

    def message_complete(self) -> None:
        """A request is there in full."""
        super().on_message_complete()

    @property
    def discarding(self) -> bool:
        """Whether the rest of a request is read that has been refused without a task."""
        return False

    def pause_writing(self) -> None:
        """The client reads too slowly; called by the transport."""
        super().pause_writing()
        if self._stalled_timer is None:
            self._stalled_timer = self.loop.call_later(MOST_STALLED_SECONDS, self._let_go)

    def resume_writing(self) -> None:
        """The client has read on; called by the transport."""
        super().resume_writing()
        self._stop_stalled()

    def _let_go(self) -> None:
        self._stalled_timer = None
        if self.cycle is not None:
            self.cycle.disconnected = True  # Or what is still being written would meet a transport that is gone.
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Say what is wrong with a head; called where the parser found an error."""
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
            self.transport.close()  # A connection on which nothing was ever asked.

    def _answering(self) -> bool:
        """Whether the answer to a request before this one is under way."""
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, kind: Kind, detail: str) -> None:
        if self._answering():
            self.transport.close()  # In the middle of an answer nothing can be said.
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
