"""A log of the slots that the latest index updates wrote, so that copies of the arrays, on a GPU, can be patched.

It is kept only while a copy exists, and has a bounded size; a copy that has fallen further behind is sent again as a
whole. Independent of the contents of slots, and of where copies are.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.index.storage import IndexArray, ranges

MOST_NUMBERS = 1 << 20
"""Most numbers in the log: 8 MB, enough for 50,000 changes of one item."""


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """Slots written by one or more changes; may contain duplicates.

    Attributes
    ----------
    nodes : int64 [k], numbers of nodes
    starts, counts : int64 [b], first slots of edge blocks, and numbers of written edges in each
    """

    nodes: IndexArray
    starts: IndexArray
    counts: IndexArray

    @classmethod
    def of(cls, nodes: Sequence[NDArray[np.integer]], blocks: Sequence[tuple[IndexArray, IndexArray]]) -> Written:
        """The concatenation of several allocations."""
        return cls(_joined(nodes), _joined([starts for starts, _ in blocks]), _joined([counts for _, counts in blocks]))

    def numbers(self) -> int:
        """Count of numbers in this record, for the bound of the log."""
        return len(self.nodes) + 2 * len(self.starts)

    def slots(self) -> int:
        """Count of written nodes and edges."""
        return len(self.nodes) + int(self.counts.sum())

    def edges(self) -> IndexArray:
        """Slots of all written edges, int64 [m]."""
        return ranges(self.starts, self.counts)


class Journal:
    """Log of the slots written by the changes of one index. Thread-safe."""

    def __init__(self) -> None:
        self._readers: weakref.WeakSet[object] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._changes: deque[tuple[int, Written]] = deque()
        self._numbers = 0
        # The log covers changes after this version; None: it is empty.
        self._after: int | None = None

    def read_by(self, reader: object) -> None:
        """Log changes from the next one on, for as long as the reader object exists."""
        self._readers.add(reader)

    def is_read(self) -> bool:
        """Whether there is a reader."""
        return bool(self._readers)

    def begin(self, version: int) -> None:
        """Restart the log: it covers every change after this version; earlier entries are dropped."""
        with self._lock:
            self._changes.clear()
            self._numbers, self._after = 0, version

    def note(self, version: int, written: Written) -> None:
        """Log the slots written by the change that produced a version; must be called before it is published."""
        with self._lock:
            self._changes.append((version, written))
            self._numbers += written.numbers()
            while self._numbers > MOST_NUMBERS:
                self._after, forgotten = self._changes.popleft()
                self._numbers -= forgotten.numbers()

    def between(self, version: int, later: int) -> Written | None:
        """Slots written after one version up to a later one; None if the log does not reach back that far."""
        with self._lock:
            if self._after is None or version < self._after:
                return None
            parts = [written for number, written in self._changes if version < number <= later]
        return Written.of([part.nodes for part in parts], [(part.starts, part.counts) for part in parts])


def _joined(parts: Sequence[NDArray[np.integer]]) -> IndexArray:
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts]).astype(np.int64, copy=False)
