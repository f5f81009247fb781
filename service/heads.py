"""Bounds the head of a request, in bytes and in time, where HTTP is parsed.

A head that cannot be used is answered with problem details like any other mistake, and its connection is closed: where
the next request begins is not known. Knows nothing of what requests mean.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import httptools
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
"""From the connection, or from the first byte after an answer, to the end of the head."""


class HeadsProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._in_head = False
        self._head_ended = False
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._wrong = (MALFORMED_HEAD, "The request is not HTTP/1.1 as RFC 9112 has it.")

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody has connected."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(MOST_HEAD_SECONDS, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """A piece of a request, or of several, is there."""
        was_in_head, self._head_ended = self._in_head, False
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._head_ended or not self._in_head:
            self._stop_timer()
        if not self._in_head:
            return
        # Where a head has ended in this piece, the one that is open now began in it.
        continued = was_in_head and not self._head_ended
        self._head_bytes = self._head_bytes + len(data) if continued else 0
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(HEAD_TOO_LARGE, f"The head of a request may have {MAX_HEAD_BYTES} bytes.")
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(MOST_HEAD_SECONDS, self._head_is_late)

    def on_message_begin(self) -> None:
        """The first byte of a request is there; called by the parser."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head of a request is there; called by the parser, which is told by an error that it cannot be used."""
        self._in_head, self._head_ended = False, True
        if len(self.url) > MAX_TARGET_BYTES:
            detail = f"Path and query of a request may have {MAX_TARGET_BYTES} bytes; these have {len(self.url)}."
            self._wrong = (TARGET_TOO_LONG, detail)
            raise ValueError(detail)
        # What uvicorn asks of it as well, but too late: by then the request counts as one that is let in.
        httptools.parse_url(self.url).path.decode("ascii")
        self.head_complete()

    def head_complete(self) -> None:
        """A head that can be used is there."""
        super().on_headers_complete()

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
