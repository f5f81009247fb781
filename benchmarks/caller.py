"""One client that asks one thing at a time over one connection, and costs as little as it can.

What it takes counts as the service's where a request is timed from outside, so it parses answers in C: the standard
library's client takes a quarter of a millisecond more, most of it for headers. To loopback.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from http import HTTPStatus
from itertools import cycle
from types import TracebackType
from urllib.parse import urlsplit

import httptools

from benchmarks.open_loop import Call, written

READ_BYTES = 1 << 16
SECONDS = 60.0
"""Longest wait for bytes of an answer."""


class Caller(AbstractContextManager["Caller"]):
    """One connection to a service."""

    def __init__(self, address: str) -> None:
        where = urlsplit(address)
        self._host = where.netloc
        self._socket = socket.create_connection((where.hostname or "", where.port or 80), SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._body, self._complete = b"", False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def ask(self, call: Call) -> None:
        """Make a call and read its answer whole.

        Raises
        ------
        RuntimeError : it is not 200, or the connection ended before it was there
        """
        self._body, self._complete = b"", False
        parser = httptools.HttpResponseParser(self)
        self._socket.sendall(written(call, self._host))
        while not self._complete:
            received = self._socket.recv(READ_BYTES)
            if not received:
                raise RuntimeError(f"{call.method} {call.path}: the service closed the connection")
            parser.feed_data(received)
        if parser.get_status_code() != HTTPStatus.OK:
            raise RuntimeError(f"{call.method} {call.path}: {parser.get_status_code()} {self._body[:200]!r}")

    def turns(self, *calls: Call) -> Callable[[], None]:
        """A function that makes the next of `calls`, round and round."""
        following = cycle(calls)
        return lambda: self.ask(next(following))

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._body += body

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self._complete = True
