"""A common limit on the bytes of all request bodies, from their arrival to their answers.

A limit per body does not bound memory where clients may open any number of connections. The first bytes of each body do
not count, so small requests always pass, however much slow large ones hold. Knows nothing of HTTP. Belongs to one event
loop and needs no lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import Overloaded

SMALL_BYTES = 64 * 1024
"""Bytes of each body that do not count; an idle connection may cost as much."""


class Share:
    """The bytes that one body takes of a `BodyMemory`."""

    def __init__(self, memory: BodyMemory) -> None:
        self._memory = memory
        self._counted = 0

    def hold(self, size: int) -> None:
        """Set the number of bytes that the body has now.

        Raises
        ------
        Overloaded : the limit would be exceeded; the former number still counts
        """
        counted = max(0, size - SMALL_BYTES)
        self._memory.take(counted - self._counted)
        self._counted = counted


class BodyMemory:
    """The limit and what all bodies take of it.

    Parameters
    ----------
    most : the limit in bytes, without the first `SMALL_BYTES` of each body
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0

    @contextmanager
    def share(self) -> Iterator[Share]:
        """The share of one body, released when the block ends."""
        share = Share(self)
        try:
            yield share
        finally:
            share.hold(0)

    def take(self, more: int) -> None:
        """Add bytes to those held, or, if negative, release them.

        Raises
        ------
        Overloaded : the limit would be exceeded; nothing changes
        """
        if more > 0 and self._held + more > self._most:
            raise Overloaded(
                f"the bodies of requests hold {self._held} of the {self._most} bytes that they may hold together; "
                "try again in 1 s, or send less in a request"
            )
        self._held += more
