"""Which slots of the constraint index its latest changes wrote, so that copies of its arrays elsewhere can be patched.

It is kept while there is a copy, and only of so many changes; a copy that fell behind further is made anew. Knows
nothing of what the slots hold, nor of where copies are.
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
"""Numbers that are remembered: 8 MB, which is enough for 50,000 changes of one item."""


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """What changes wrote; some of it perhaps twice.

    Attributes
    ----------
    nodes : int64 [k], numbers of nodes
    starts, counts : int64 [b], blocks of edges, and how many edges of each
    """

    nodes: IndexArray
    starts: IndexArray
    counts: IndexArray

    @classmethod
    def of(cls, nodes: Sequence[NDArray[np.integer]], blocks: Sequence[tuple[IndexArray, IndexArray]]) -> Written:
        """All these together."""
        return cls(_joined(nodes), _joined([starts for starts, _ in blocks]), _joined([counts for _, counts in blocks]))

    def numbers(self) -> int:
        """How many numbers say so."""
        return len(self.nodes) + 2 * len(self.starts)

    def slots(self) -> int:
        """Nodes and edges."""
        return len(self.nodes) + int(self.counts.sum())

    def edges(self) -> IndexArray:
        """Places of the edges, int64 [m]."""
        return ranges(self.starts, self.counts)


class Journal:
    """What the changes of one index wrote. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._readers: weakref.WeakSet[object] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._changes: deque[tuple[int, Written]] = deque()
        self._numbers = 0
        # Changes up to this version are not in the journal; None: nothing is.
        self._after: int | None = None

    def read_by(self, reader: object) -> None:
        """From the next change on, note what is written, for as long as the reader exists."""
        self._readers.add(reader)

    def is_read(self) -> bool:
        """Whether anybody wants to know."""
        return bool(self._readers)

    def begin(self, version: int) -> None:
        """Every change after this version is going to be noted; what was noted before does not count any more."""
        with self._lock:
            self._changes.clear()
            self._numbers, self._after = 0, version

    def note(self, version: int, written: Written) -> None:
        """Remember what the change that led to a version wrote; to be called before the version is shown."""
        with self._lock:
            self._changes.append((version, written))
            self._numbers += written.numbers()
            while self._numbers > MOST_NUMBERS:
                self._after, forgotten = self._changes.popleft()
                self._numbers -= forgotten.numbers()

    def between(self, version: int, later: int) -> Written | None:
        """What was written after a version was shown, up to a later one; None where that is not known."""
        with self._lock:
            if self._after is None or version < self._after:
                return None
            parts = [written for number, written in self._changes if version < number <= later]
        return Written.of([part.nodes for part in parts], [(part.starts, part.counts) for part in parts])


def _joined(parts: Sequence[NDArray[np.integer]]) -> IndexArray:
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts]).astype(np.int64, copy=False)
