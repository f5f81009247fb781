"""Counts readers, so that a deletion can wait until nobody reads a state from before it.

Readers never wait. A deletion may wait for them, or be told when they are done. Knows nothing of what is read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Readers:
    """Everybody who is reading."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside: set[object] = set()
        self._waits: list[tuple[set[object], Callable[[], None]]] = []

    @property
    def waiting(self) -> int:
        """How many wait."""
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
        """Have `then` called once all who read now have left, by the last of them; at once where nobody reads.

        Those who come later are not waited for.

        Parameters
        ----------
        then : must neither wait nor raise, or a reader does
        """
        with self._lock:
            earlier = set(self._inside)
            if earlier:
                self._waits.append((earlier, then))
        if not earlier:
            then()
