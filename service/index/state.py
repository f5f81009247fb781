"""One immutable state of the constraint index: the arrays that a graph reads, and look-ups in them.

Symbols: n tuples, depth tokens per item, X blocked edges. Independent of how updates derive one state from another.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidInput
from service.index.ends import roots_of_marks
from service.index.journal import Journal

IntArray = NDArray[np.int32]

NO_LEAF = -1
"""Result of a look-up that finds nothing."""

FEW = 64
"""Up to this many tuples, plain Python is faster than NumPy, whose fixed cost per call equals that of some hundred
scalar operations."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class TrieArrays:
    """The index as a graph reads it. The edges in a node's range never change while this object is referenced.

    Attributes
    ----------
    node_start, node_count : int32 [nodes], first edge and number of edges of each node
    edge_token, edge_child : int32 [edges], length at least 1, so that a gather never sees an empty axis;
        slots outside every node's range hold stale values
    fanout : per level, the largest number of children of a node, at least 1
    roots : int32 [roots], the node of each root
    version : number of the state, increasing with every published state of an index
    journal : log of written slots, for those who keep a copy of the arrays elsewhere; None: copies cannot be patched
    """

    node_start: IntArray
    node_count: IntArray
    edge_token: IntArray
    edge_child: IntArray
    fanout: tuple[int, ...]
    roots: IntArray
    version: int = 0
    journal: Journal | None = None


@dataclass(frozen=True, slots=True, eq=False)
class TrieState:
    """The arrays of a graph, and those that only the host needs.

    Attributes
    ----------
    depth : tokens per item
    edge_leaf : int32 [edges], the item's leaf where an edge points to a shared end, else -1
    node_leaves : int32 [nodes], number of leaves below each node
    """

    depth: int
    arrays: TrieArrays
    edge_leaf: IntArray
    node_leaves: IntArray

    def leaf_count(self, root: int) -> int:
        """Number of items of a root."""
        return int(self.node_leaves[self.arrays.roots[root]])

    def find(self, roots: IntArray, tokens: IntArray) -> IntArray:
        """Leaves of token tuples; `NO_LEAF` for tuples that are not in the index.

        Parameters
        ----------
        roots : int32 [n]
        tokens : int32 [n, depth]

        Returns
        -------
        int32 [n]
        """
        if len(tokens) <= FEW:
            return np.array([self._leaf(way) for way in self._ways_of_each(roots, tokens)], dtype=np.int32)
        edges = self._ways(roots, tokens)
        own = self.edge_leaf[edges].max(axis=1, initial=NO_LEAF, where=edges >= 0)
        found = np.where(own >= 0, own, self.arrays.edge_child[edges[:, -1]])
        return np.where(edges[:, -1] >= 0, found, NO_LEAF).astype(np.int32, copy=False)

    def leaves(self, found: IntArray, tokens: IntArray) -> IntArray:
        """The items' leaves for the results of a search, which may be marks of shared ends.

        Parameters
        ----------
        found : int32 [n], values of `edge_child` at the last level: leaves or marks
        tokens : int32 [n, depth], the token path of each result
        """
        shared, roots = roots_of_marks(found)
        leaves = found.copy()
        leaves[shared] = self.find(roots[shared].astype(np.int32), tokens[shared])
        return leaves

    def blocked_edges(self, roots: IntArray, tokens: IntArray) -> IntArray:
        """The smallest set of edges that cuts off exactly these leaves: the topmost edges with only such leaves below.

        Tuples that are not in the trie are ignored; repeated ones count once. An edge inside a shared end is never
        returned, since the edge before it has only one leaf below.

        Parameters
        ----------
        roots : int32 [n], root of each tuple
        tokens : int32 [n, depth]

        Returns
        -------
        int32 [X], positions in `edge_*`, ascending
        """
        if len(tokens) <= FEW:
            return self._cut_each(self._ways_of_each(roots, tokens))
        edges = self._ways(roots, tokens)
        return np.sort(self._cut(edges[edges[:, -1] >= 0])).astype(np.int32, copy=False)

    def _cut(self, edges: IntArray) -> IntArray:
        """The topmost edges with only leaves of the paths `edges` int32 [n, depth] below them."""
        shared = self.edge_leaf[edges] >= 0
        # Items are identified by the edge that belongs to one item only.
        place = np.where(shared.any(axis=1), shared.argmax(axis=1), self.depth - 1)
        _, distinct = np.unique(edges[np.arange(len(edges)), place], return_index=True)
        ways = edges[distinct]
        blocked = []
        for level in range(self.depth):
            positions, way, named = np.unique(ways[:, level], return_inverse=True, return_counts=True)
            full = named == self._leaves_below(positions, level)
            blocked.append(positions[full])
            ways = ways[~full[way]]
        return np.concatenate(blocked)

    def _cut_each(self, ways: Iterable[Sequence[int]]) -> IntArray:
        """`_cut` for few paths. Walks each path upwards: above an edge that is not fully blocked, no edge is."""
        child, leaves = self.arrays.edge_child.data, self.node_leaves.data
        whole = [way[: self._own(way) + 1] for way in ways if len(way) == self.depth]
        distinct = {way[-1]: way for way in whole}
        named = Counter(chain.from_iterable(distinct.values()))
        blocked = set()
        for way in distinct.values():
            top = len(way) - 1
            while top > 0 and named[way[top - 1]] == leaves[child[way[top - 1]]]:
                top -= 1
            blocked.add(way[top])
        return np.array(sorted(blocked), dtype=np.int32)

    def _own(self, way: Sequence[int]) -> int:
        """The level of a complete path whose edge belongs to one item only, and so identifies it."""
        leaf = self.edge_leaf.data
        for level in reversed(range(self.depth)):
            if leaf[way[level]] >= 0:
                return level
        return self.depth - 1

    def _leaf(self, way: Sequence[int]) -> int:
        """The leaf at the end of a path, `NO_LEAF` if the path is incomplete."""
        if len(way) < self.depth:
            return NO_LEAF
        own = way[self._own(way)]
        return self.edge_leaf.item(own) if self.edge_leaf.item(own) >= 0 else self.arrays.edge_child.item(own)

    def _require_levels(self, tokens: IntArray) -> None:
        if tokens.ndim != 2 or tokens.shape[1] != self.depth:
            raise InvalidInput(f"tokens have shape {list(tokens.shape)}, but the index has {self.depth} levels")

    def _ways(self, roots: IntArray, tokens: IntArray) -> IntArray:
        """Edge positions along each tuple, int32 [n, depth]; -1 from the level where a tuple leaves the trie.

        All tuples descend together: per level, one vectorised binary search over all their nodes.
        """
        self._require_levels(tokens)
        arrays = self.arrays
        nodes = arrays.roots[roots]
        edges = np.full(tokens.shape, -1, dtype=np.int32)
        alive = np.arange(len(tokens))
        for level in range(self.depth):
            wanted = tokens[alive, level]
            low = arrays.node_start[nodes].astype(np.int64)
            end = low + arrays.node_count[nodes]
            high = end.copy()
            last = len(arrays.edge_token) - 1
            for _ in range(int((end - low).max(initial=0)).bit_length()):
                middle = np.minimum((low + high) // 2, last)
                less = (arrays.edge_token[middle] < wanted) & (low < high)
                low, high = np.where(less, middle + 1, low), np.where(less, high, middle)
                low = np.minimum(low, high)
            there = low < end
            there[there] = arrays.edge_token[low[there]] == wanted[there]
            alive, position = alive[there], low[there]
            edges[alive, level] = position
            nodes = arrays.edge_child[position]
        return edges

    def _ways_of_each(self, roots: IntArray, tokens: IntArray) -> list[list[int]]:
        """Edge positions along each tuple, up to where it leaves the trie; for few tuples."""
        self._require_levels(tokens)
        arrays = self.arrays
        # Reading one element of a memoryview costs a third of reading one of an array.
        start, count = arrays.node_start.data, arrays.node_count.data
        edge_token, edge_child = arrays.edge_token.data, arrays.edge_child.data
        ways = []
        for root, path in zip(roots.tolist(), tokens.tolist(), strict=True):
            node, way = arrays.roots.item(root), list[int]()
            for token in path:
                first = start[node]
                end = first + count[node]
                position = bisect_left(edge_token, token, first, end)
                if position == end or edge_token[position] != token:
                    break
                way.append(position)
                node = edge_child[position]
            ways.append(way)
        return ways

    def _leaves_below(self, edges: IntArray, level: int) -> IntArray:
        """Number of leaves below edges whose parent nodes are on a level: int32 [n]."""
        if level == self.depth - 1:
            return np.ones(len(edges), dtype=np.int32)
        child = np.where(self.edge_leaf[edges] >= 0, 0, self.arrays.edge_child[edges])
        return np.where(self.edge_leaf[edges] >= 0, 1, self.node_leaves[child]).astype(np.int32, copy=False)
