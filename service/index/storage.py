"""Growing flat arrays of the constraint index: a table of nodes and a heap of edge blocks, handed out many at a time.

What was handed out is written once, before anybody reads it, and not again until it was given back. Knows nothing of
tokens or of how nodes hang together.

Symbols: k things asked for at once.
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
"""Sizes of blocks that are reused: 0, 1, 2, 3, 4, 6, 8, 12, ...; a block is at most half as large again as needed."""


def ranges(starts: NDArray[np.integer], counts: NDArray[np.integer]) -> IndexArray:
    """The numbers `start .. start + count - 1` of each range, one range behind the other: int64 [sum of counts]."""
    if len(starts) == 1:
        return np.arange(starts[0], starts[0] + counts[0], dtype=np.int64)
    ends = counts.cumsum(dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - (ends - counts), counts) + np.arange(total, dtype=np.int64)


class Column:
    """A growing int32 array. Growing makes a larger copy, so that views of the array remain what they were."""

    def __init__(self, values: IntArray | None = None) -> None:
        self.values = np.zeros(0, dtype=np.int32) if values is None else values

    def fit(self, used: int, needed: int) -> None:
        """Make room for `needed` entries, keeping the first `used`; pages never written to take no memory."""
        if needed > len(self.values):
            larger = np.zeros(max(SMALLEST, needed, int(len(self.values) * GROWTH)), dtype=np.int32)
            larger[:used] = self.values[:used]
            self.values = larger

    def own(self) -> None:
        """Copy what may not be written to, such as the map of a file: room in it is no room to write."""
        if not self.values.flags.writeable:
            self.values = self.values.copy()


class NodeTable:
    """Columns of all nodes; a node's number is its row.

    Attributes
    ----------
    start, count : a node's edge block
    leaves : number of leaves below
    kind : place in `CAPACITIES` of what the block gives back when it is freed
    used : rows handed out at any time
    handed : what was handed out, int [k] each, while somebody keeps count; None while nobody does
    """

    def __init__(self) -> None:
        self.start, self.count, self.leaves, self.kind = Column(), Column(), Column(), Column()
        self.used = 0
        self.handed: list[IntArray] | None = None
        self._free: list[int] = []

    def allocate(self, wanted: int) -> IntArray:
        """Numbers of fresh nodes, int32 [wanted]."""
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
        """Fill in fresh nodes, all arrays [k]; blocks are those that `EdgeBlocks.allocate` gave for these counts."""
        self.start.values[nodes], self.count.values[nodes], self.leaves.values[nodes] = start, count, leaves
        self.kind.values[nodes] = CAPACITIES.searchsorted(count)

    def free(self, nodes: IntArray) -> None:
        """Give nodes back."""
        self._free += nodes.tolist()


class EdgeBlocks:
    """Columns of all edges, handed out in blocks.

    Attributes
    ----------
    token, child : of an edge
    leaf : the item's leaf where the edge leads to an end that items share, else -1
    used : slots that belong or once belonged to a block
    handed : first slots and numbers of slots asked for and handed out, int64 [k] each, while somebody keeps count;
        None while nobody does
    """

    def __init__(self) -> None:
        self.token, self.child, self.leaf = Column(), Column(), Column()
        self.used = 0
        self.handed: list[tuple[IndexArray, IndexArray]] | None = None
        self._free: list[list[int]] = [[] for _ in CAPACITIES]

    def allocate(self, counts: NDArray[np.integer]) -> IndexArray:
        """First slots of blocks for so many edges each: int64 [k] -> int64 [k]."""
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
        """Make room for what was handed out, and for one edge at least, so that a gather never meets an empty axis."""
        for column in (self.token, self.child, self.leaf):
            column.fit(len(column.values), max(self.used, 1))

    def free(self, starts: NDArray[np.integer], kinds: NDArray[np.integer]) -> None:
        """Give blocks back, both [k]."""
        for kind in set(kinds.tolist()):
            if kind:
                self._free[kind] += starts[kinds == kind].tolist()


def floor_kinds(counts: NDArray[np.integer]) -> IntArray:
    """Places in `CAPACITIES` of the largest blocks that fit into blocks of exactly these sizes: int32 [k]."""
    return (CAPACITIES.searchsorted(counts, side="right") - 1).astype(np.int32)


def _taken(free: list[int], wanted: int) -> IndexArray:
    """Up to `wanted` of what is free, most recent first, taken off the list."""
    kept = max(0, len(free) - wanted)
    taken = np.array(free[kept:], dtype=np.int64)
    del free[kept:]
    return taken
