"""How many bytes the bodies of all requests may hold together, from their arrival to their answers.

The limit on one body bounds nothing where anybody may open any number of connections. Small bodies do not count: there
is always room for them, whatever large ones hold that take their time. Knows nothing of HTTP. Belongs to one event loop
and needs no lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import Overloaded

SMALL_BYTES = 64 * 1024
"""Of each body that do not count; a connection on which nothing is asked may cost as much."""


class Share:
    """What one body holds; it belongs to a `Room`."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._counted = 0

    def hold(self, size: int) -> None:
        """The body has so many bytes now.

        Raises
        ------
        Overloaded : there is no room for it; what it held before still counts
        """
        counted = max(0, size - SMALL_BYTES)
        self._room.take(counted - self._counted)
        self._counted = counted


class Room:
    """The room of all bodies.

    Parameters
    ----------
    most : bytes that they may hold together, beyond `SMALL_BYTES` of each
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0

    @contextmanager
    def share(self) -> Iterator[Share]:
        """A body for as long as the block runs."""
        share = Share(self)
        try:
            yield share
        finally:
            share.hold(0)

    def take(self, more: int) -> None:
        """So many bytes more are held, or fewer.

        Raises
        ------
        Overloaded : they would be more than there may be; nothing changes
        """
        if more > 0 and self._held + more > self._most:
            raise Overloaded(
                f"the bodies of requests hold {self._held} of the {self._most} bytes that they may hold together; "
                "try again in 1 s, or send less in a request"
            )
        self._held += more
