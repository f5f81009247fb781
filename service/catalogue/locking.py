"""Keeps count of who reads, so that a change can wait until nobody reads what was before it.

Readers wait for nobody. Knows nothing of what is read.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Readers:
    """Everybody who is reading."""

    def __init__(self) -> None:
        self._left = threading.Condition()
        self._inside: set[object] = set()
        self.waiting = 0

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Count as a reader while the block runs."""
        reader = object()
        with self._left:
            self._inside.add(reader)
        try:
            yield
        finally:
            with self._left:
                self._inside.discard(reader)
                self._left.notify_all()

    def wait_for_earlier(self) -> None:
        """Wait for those who read now; not for those who come later. A reader that calls it waits for ever."""
        with self._left:
            earlier = set(self._inside)
            self.waiting += 1
            try:
                self._left.wait_for(lambda: earlier.isdisjoint(self._inside))
            finally:
                self.waiting -= 1
