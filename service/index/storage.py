"""Growing flat arrays of the constraint index: a table of nodes and a heap of edge blocks.

Both grow geometrically and reuse what was given back. Knows nothing of tokens or of how nodes hang together.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.index.building import Levels

IntArray = NDArray[np.int32]

GROWTH = 1.5
SMALLEST = 64


def _grown(array: IntArray, used: int, needed: int) -> IntArray:
    """The array itself if `needed` slots fit, else a larger copy of its used part."""
    if needed <= len(array):
        return array
    larger = np.zeros(max(SMALLEST, needed, int(len(array) * GROWTH)), dtype=np.int32)
    larger[:used] = array[:used]
    return larger


class NodeTable:
    """Columns of all nodes; a node's number is its row.

    Attributes
    ----------
    start, count, capacity : int32 [nodes], a node's edge block and how much of it is in use
    leaves : int32 [nodes], number of leaves below
    used : rows handed out at any time; rows given back are reused before new ones
    """

    def __init__(self, depth: int) -> None:
        self.start = np.zeros(0, dtype=np.int32)
        self.count = np.zeros(0, dtype=np.int32)
        self.capacity = np.zeros(0, dtype=np.int32)
        self.leaves = np.zeros(0, dtype=np.int32)
        self.used = 0
        self._free: list[int] = []
        # How many nodes of a level have so many children (1 and more; the entry of 0 means nothing): keeps the fanout
        # exact without looking at every node.
        self._sizes: list[dict[int, int]] = [{} for _ in range(depth)]
        self._largest = [0] * depth

    def adopt(self, levels: Levels) -> None:
        """Take over a finished build; blocks are exactly full."""
        self.start, self.count, self.leaves = levels.node_start, levels.node_count, levels.node_leaves
        self.capacity = levels.node_count.copy()
        self.used = len(self.start)
        for level, (first, end) in enumerate(levels.node_ranges):
            sizes, numbers = np.unique(self.count[first:end], return_counts=True)
            self._sizes[level] = dict(zip(sizes.tolist(), numbers.tolist(), strict=True))
            self._largest[level] = int(sizes[-1])

    def new(self) -> int:
        """A node without children or leaves; returns its number."""
        if self._free:
            return self._free.pop()
        node = self.used
        for name in ("start", "count", "capacity", "leaves"):
            setattr(self, name, _grown(getattr(self, name), node, node + 1))
        self.used += 1
        return node

    def free(self, node: int, level: int) -> None:
        """Give a node back; its block must have been given back before."""
        self.resize(node, level, 0)
        self.start[node] = self.capacity[node] = 0
        self._free.append(node)

    def resize(self, node: int, level: int, count: int) -> None:
        """Note that a node of `level` now has `count` children."""
        sizes, before = self._sizes[level], int(self.count[node])
        self.count[node] = count
        for size, change in ((before, -1), (count, +1)):
            sizes[size] = sizes.get(size, 0) + change
        self._largest[level] = max(self._largest[level], count)
        while self._largest[level] and not sizes.get(self._largest[level]):
            self._largest[level] -= 1

    def fanout(self) -> tuple[int, ...]:
        """Largest number of children by level, at least 1."""
        return tuple(max(1, largest) for largest in self._largest)


class EdgeBlocks:
    """Columns of all edges, handed out in blocks.

    Attributes
    ----------
    token, child : int32 [edges]
    used : slots that belong or once belonged to a block
    """

    def __init__(self) -> None:
        self.token = np.zeros(SMALLEST, dtype=np.int32)
        self.child = np.zeros(SMALLEST, dtype=np.int32)
        self.used = 0
        # Blocks given back, by the largest power of two that fits into them.
        self._free: dict[int, list[int]] = {}

    def adopt(self, token: IntArray, child: IntArray) -> None:
        """Take over a finished build."""
        self.token, self.child, self.used = token, child, len(token)

    def allocate(self, capacity: int) -> int:
        """First slot of a block of `capacity` slots, a power of two."""
        if free := self._free.get(capacity):
            return free.pop()
        start = self.used
        self.token = _grown(self.token, start, start + capacity)
        self.child = _grown(self.child, start, start + capacity)
        self.used += capacity
        return start

    def release(self, start: int, capacity: int) -> None:
        """Give a block back; one of another size than a power of two loses the rest of it."""
        if capacity:
            self._free.setdefault(1 << (capacity.bit_length() - 1), []).append(start)

    def move(self, start: int, count: int, target: int) -> None:
        """Copy `count` edges from one block to another that does not overlap it."""
        self.token[target : target + count] = self.token[start : start + count]
        self.child[target : target + count] = self.child[start : start + count]

    def open_slot(self, position: int, end: int) -> None:
        """Shift the edges `position..end - 1` up by one."""
        self.token[position + 1 : end + 1] = self.token[position:end]
        self.child[position + 1 : end + 1] = self.child[position:end]

    def close_slot(self, position: int, end: int) -> None:
        """Shift the edges `position + 1..end - 1` down by one, over the one at `position`."""
        self.token[position : end - 1] = self.token[position + 1 : end]
        self.child[position : end - 1] = self.child[position + 1 : end]
