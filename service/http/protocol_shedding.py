"""Load shedding in the HTTP protocol: refusing a request by its head needs neither a task nor an ASGI message.

For a plain request the decision is made as soon as its head is complete (see `service/http/protocol_limits.py`); any
other goes on to the application, which decides then. Knows nothing of which requests are refused, nor why (see
`service/http/shedding.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias, cast

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from service.http.protocol_limits import LimitedProtocol

PARTICULAR = frozenset({b"expect", b"origin"})
"""Headers that a plain refusal cannot handle: `Expect` (whether to send the body) and `Origin` (CORS)."""


class Refusal(NamedTuple):
    """The complete answer to a refused request."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes


TurnAway: TypeAlias = Callable[[Scope], Refusal | None]
"""Called with method, path, headers and state of a request; returns None to admit it."""


class SheddingProtocol(LimitedProtocol):
    """HTTP protocol of one connection, with load shedding.

    Parameters
    ----------
    turn_away : decides on each plain request
    arguments : passed on to uvicorn's protocol
    """

    def __init__(self, *, turn_away: TurnAway, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._turn_away = turn_away
        self._turned_away = False

    def head_complete(self) -> None:
        """A usable head is complete."""
        refusal = self._refusal() if self._is_plain() else None
        self._turned_away = refusal is not None
        if refusal is None:
            super().head_complete()
            return
        headers = (*self.server_state.default_headers, *refusal.headers)
        lines = [b"%b: %b\r\n" % header for header in headers]
        self.transport.write(b"".join((STATUS_LINE[refusal.status], *lines, b"\r\n", refusal.body)))
        self.on_response_complete()

    def body_arrived(self, body: bytes) -> None:
        """A part of a body has arrived; the body of a refused request is discarded."""
        if not self._turned_away:
            super().body_arrived(body)

    def message_complete(self) -> None:
        """A request is complete."""
        if not self._turned_away:
            super().message_complete()

    @property
    def discarding(self) -> bool:
        """Whether the rest of a refused request is being discarded."""
        return self._turned_away and self._open

    def _is_plain(self) -> bool:
        """Whether a refusal may be written at once, and the connection reused."""
        return (
            (self.cycle is None or self.cycle.response_complete)
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and not self.parser.should_upgrade()
            and b"%" not in self.url
            and not any(name in PARTICULAR for name, _ in self.headers)
        )

    def _refusal(self) -> Refusal | None:
        scope = cast(Scope, self.scope)
        scope["method"] = self.parser.get_method().decode("ascii")
        scope["path"] = self.url.partition(b"?")[0].decode("latin-1")
        return self._turn_away(scope)
