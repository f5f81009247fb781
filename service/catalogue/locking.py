"""Tracks readers, so that a deletion can wait until no reader uses an earlier state.

Readers never block. A deletion may wait for them, or get a callback when they are done. Independent of what is read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Readers:
    """The set of active readers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside: set[object] = set()
        self._waits: list[tuple[set[object], Callable[[], None]]] = []

    @property
    def waiting(self) -> int:
        """Number of pending callbacks."""
        return len(self._waits)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Count as a reader while the block runs."""
        reader = object()
        with self._lock:
            self._inside.add(reader)
        try:
            yield
        finally:
            with self._lock:
                self._inside.discard(reader)
                for earlier, _ in self._waits:
                    earlier.discard(reader)
                over = [then for earlier, then in self._waits if not earlier]
                self._waits = [wait for wait in self._waits if wait[0]]
            for then in over:
                then()

    def after_earlier(self, then: Callable[[], None]) -> None:
        """Call `then` once all current readers have left, on the thread of the last; immediately if there are none.

        Later readers are not waited for.

        Parameters
        ----------
        then : must neither block nor raise, since it runs in a reader's thread
        """
        with self._lock:
            earlier = set(self._inside)
            if earlier:
                self._waits.append((earlier, then))
        if not earlier:
            then()
