"""One state of the constraint index: what a graph reads, and looking things up. It never changes.

Symbols: n tuples, depth tokens an item, X blocked edges. Knows nothing of how a state comes to follow another.
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
"""What is answered where nothing is stored."""

FEW = 64
"""Tuples up to which one at a time is faster than all together: an array costs as much as a hundred numbers."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class TrieArrays:
    """The index as a graph reads it; what a node's range shows never changes while this object is kept.

    Attributes
    ----------
    node_start, node_count : int32 [nodes], where a node's edges begin and how many they are
    edge_token, edge_child : int32 [edges], at least one long so that a gather never meets an empty axis;
        slots outside every node's range hold leftovers
    fanout : largest number of children that a node of each level has, at least 1
    roots : int32 [roots], the node of each root
    version : states of one index are numbered in the order in which they were shown
    journal : of the index, for whoever keeps a copy of its arrays elsewhere; None: nobody can
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
    """Arrays with what only the host needs.

    Attributes
    ----------
    depth : tokens of an item
    edge_leaf : int32 [edges], the leaf where an edge leads to a shared end, else -1
    node_leaves : int32 [nodes], number of leaves below
    """

    depth: int
    arrays: TrieArrays
    edge_leaf: IntArray
    node_leaves: IntArray

    def leaf_count(self, root: int) -> int:
        """Number of items of a root."""
        return int(self.node_leaves[self.arrays.roots[root]])

    def find(self, roots: IntArray, tokens: IntArray) -> IntArray:
        """Leaves of token tuples, `NO_LEAF` where there is none.

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
        """The items' leaves, where a search may have met the mark of a shared end in place of one.

        Parameters
        ----------
        found : int32 [n], what `edge_child` held at the last level
        tokens : int32 [n, depth], the way there
        """
        shared, roots = roots_of_marks(found)
        leaves = found.copy()
        leaves[shared] = self.find(roots[shared].astype(np.int32), tokens[shared])
        return leaves

    def blocked_edges(self, roots: IntArray, tokens: IntArray) -> IntArray:
        """Fewest edges that cut exactly these leaves off: the topmost under which every leaf is named.

        Tuples that are not in the trie are passed over; repeated ones count once. An edge inside a shared end is never
        among them, since the edge before it leads to one leaf alone.

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
        """The topmost edges under which every leaf is at the end of one of the ways `edges` int32 [n, depth]."""
        shared = self.edge_leaf[edges] >= 0
        # The edge that belongs to one item alone tells items apart.
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
        """`_cut` for few ways, sorted, each from its end upwards: where an edge is not full, none above it is."""
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
        """The level at which the edge of a whole way belongs to one item alone, and tells it from others."""
        leaf = self.edge_leaf.data
        for level in reversed(range(self.depth)):
            if leaf[way[level]] >= 0:
                return level
        return self.depth - 1

    def _leaf(self, way: Sequence[int]) -> int:
        """The leaf at the end of a way, `NO_LEAF` where it is not whole."""
        if len(way) < self.depth:
            return NO_LEAF
        own = way[self._own(way)]
        return self.edge_leaf.item(own) if self.edge_leaf.item(own) >= 0 else self.arrays.edge_child.item(own)

    def _require_levels(self, tokens: IntArray) -> None:
        if tokens.ndim != 2 or tokens.shape[1] != self.depth:
            raise InvalidInput(f"tokens have shape {list(tokens.shape)}, but the index has {self.depth} levels")

    def _ways(self, roots: IntArray, tokens: IntArray) -> IntArray:
        """Edge positions along each tuple, int32 [n, depth]; -1 from where a tuple leaves the trie.

        All tuples descend together: one binary search a level, over every node at once.
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
        """Edge positions along each of few tuples, up to where it leaves the trie."""
        self._require_levels(tokens)
        arrays = self.arrays
        # An element of a memory view costs a third of one of an array.
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
        """Leaves under edges that leave nodes of a level: int32 [n]."""
        if level == self.depth - 1:
            return np.ones(len(edges), dtype=np.int32)
        child = np.where(self.edge_leaf[edges] >= 0, 0, self.arrays.edge_child[edges])
        return np.where(self.edge_leaf[edges] >= 0, 1, self.node_leaves[child]).astype(np.int32, copy=False)
