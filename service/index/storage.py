"""Growing flat arrays of the constraint index: a table of nodes and a heap of edge blocks, allocated in batches.

An allocated slot is written once, before it is published to readers, and not again until it has been freed. Independent
of tokens and of the shape of the trie.

Symbols: k slots or blocks allocated at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int32]
IndexArray = NDArray[np.int64]

GROWTH = 1.5
SMALLEST = 64

CAPACITIES: IndexArray = np.unique(
    np.concatenate([[0], *([1 << power, 3 << power >> 1] for power in range(31))])
).astype(np.int64)
"""Block sizes: 0, 1, 2, 3, 4, 6, 8, 12, ...; a block is at most 1.5 times as large as needed."""


def ranges(starts: NDArray[np.integer], counts: NDArray[np.integer]) -> IndexArray:
    """The numbers `start .. start + count - 1` of all ranges, concatenated: int64 [sum of counts]."""
    if len(starts) == 1:
        return np.arange(starts[0], starts[0] + counts[0], dtype=np.int64)
    ends = counts.cumsum(dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - (ends - counts), counts) + np.arange(total, dtype=np.int64)


class Column:
    """A growing int32 array. Growing makes a larger copy, so that existing views of the array stay valid."""

    def __init__(self, values: IntArray | None = None) -> None:
        self.values = np.zeros(0, dtype=np.int32) if values is None else values

    def fit(self, used: int, needed: int) -> None:
        """Make room for `needed` entries, keeping the first `used`. Pages that were never written take no memory."""
        if needed > len(self.values):
            larger = np.zeros(max(SMALLEST, needed, int(len(self.values) * GROWTH)), dtype=np.int32)
            larger[:used] = self.values[:used]
            self.values = larger

    def own(self) -> None:
        """Copy the array if it is read-only, such as a memory-mapped file."""
        if not self.values.flags.writeable:
            self.values = self.values.copy()


class NodeTable:
    """Columns of all nodes; a node's number is its row.

    Attributes
    ----------
    start, count : the node's edge block
    leaves : number of leaves below
    kind : index into `CAPACITIES` of the size that becomes free with the block
    used : rows allocated so far, freed ones included
    handed : allocated nodes, int [k] per call, while allocations are logged; else None
    """

    def __init__(self) -> None:
        self.start, self.count, self.leaves, self.kind = Column(), Column(), Column(), Column()
        self.used = 0
        self.handed: list[IntArray] | None = None
        self._free: list[int] = []

    def allocate(self, wanted: int) -> IntArray:
        """Allocate nodes; returns their numbers, int32 [wanted]."""
        reused = _taken(self._free, wanted)
        first, self.used = self.used, self.used + wanted - len(reused)
        for column in (self.start, self.count, self.leaves, self.kind):
            column.fit(first, self.used)
            column.own()
        fresh = np.concatenate([reused, np.arange(first, self.used)]).astype(np.int32)
        if self.handed is not None:
            self.handed.append(fresh)
        return fresh

    def write(
        self, nodes: IntArray, start: NDArray[np.integer], count: NDArray[np.integer], leaves: NDArray[np.integer]
    ) -> None:
        """Fill in new nodes, all arrays [k]; their blocks come from `EdgeBlocks.allocate` for these counts."""
        self.start.values[nodes], self.count.values[nodes], self.leaves.values[nodes] = start, count, leaves
        self.kind.values[nodes] = CAPACITIES.searchsorted(count)

    def free(self, nodes: IntArray) -> None:
        """Free nodes for reuse."""
        self._free += nodes.tolist()


class EdgeBlocks:
    """Columns of all edges, allocated in blocks.

    Attributes
    ----------
    token, child : of an edge
    leaf : the item's leaf where the edge points to a shared end, else -1
    used : slots that belong or once belonged to a block
    handed : first slots and requested sizes of allocated blocks, int64 [k] each per call, while allocations are logged;
        else None
    """

    def __init__(self) -> None:
        self.token, self.child, self.leaf = Column(), Column(), Column()
        self.used = 0
        self.handed: list[tuple[IndexArray, IndexArray]] | None = None
        self._free: list[list[int]] = [[] for _ in CAPACITIES]

    def allocate(self, counts: NDArray[np.integer]) -> IndexArray:
        """Allocate a block for each number of edges; returns their first slots: int64 [k] -> int64 [k]."""
        kinds = CAPACITIES.searchsorted(counts)
        starts = np.zeros(len(counts), dtype=np.int64)
        for kind in set(kinds.tolist()):
            wanting = np.flatnonzero(kinds == kind)
            reused = _taken(self._free[kind], len(wanting)) if kind else np.zeros(len(wanting), dtype=np.int64)
            fresh, size = len(wanting) - len(reused), int(CAPACITIES[kind])
            starts[wanting] = np.concatenate([reused, self.used + size * np.arange(fresh, dtype=np.int64)])
            self.used += size * fresh
        self.fit()
        for column in (self.token, self.child, self.leaf):
            column.own()
        if self.handed is not None:
            self.handed.append((starts, counts.astype(np.int64)))
        return starts

    def fit(self) -> None:
        """Grow the arrays to all allocated slots, and to one at least, so that a gather never sees an empty axis."""
        for column in (self.token, self.child, self.leaf):
            column.fit(len(column.values), max(self.used, 1))

    def free(self, starts: NDArray[np.integer], kinds: NDArray[np.integer]) -> None:
        """Free blocks for reuse, both arrays [k]."""
        for kind in set(kinds.tolist()):
            if kind:
                self._free[kind] += starts[kinds == kind].tolist()


def floor_kinds(counts: NDArray[np.integer]) -> IntArray:
    """Indices into `CAPACITIES` of the largest sizes that fit into blocks of exactly `counts` slots: int32 [k]."""
    return (CAPACITIES.searchsorted(counts, side="right") - 1).astype(np.int32)


def _taken(free: list[int], wanted: int) -> IndexArray:
    """Remove up to `wanted` entries from a free list, the most recently freed ones."""
    kept = max(0, len(free) - wanted)
    taken = np.array(free[kept:], dtype=np.int64)
    del free[kept:]
    return taken
