"""Shared ends of the constraint index: equal tails of single-item branches are stored once.

After their last code or two, most items are the only one in their branch: the rest (a code, experts, a suffix) is a
chain of nodes with one edge each, and thousands of items have an equal chain. Items of one root with equal chains share
one. The last edge of a shared end points to a *mark* in place of a leaf; the mark identifies the root. The item's leaf
is stored with the edge that points to the shared end, since that edge belongs to this item only.

Independent of the nodes above a shared end.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.index.storage import EdgeBlocks, IndexArray, IntArray, NodeTable

TOP_MARK = 2**31 - 1
"""Mark of root 0; the mark of root r is `TOP_MARK - r`."""

MAX_ROOTS = 1 << 20
"""Number of marks; leaves must be smaller than the smallest mark."""


def marks(roots: NDArray[np.integer]) -> IndexArray:
    """Marks of roots: the values in place of a leaf at the last level of shared ends."""
    return TOP_MARK - roots.astype(np.int64)


def roots_of_marks(leaves: NDArray[np.integer]) -> tuple[NDArray[np.bool_], IndexArray]:
    """Which leaves are marks, and the roots of those (undefined elsewhere)."""
    roots = TOP_MARK - leaves.astype(np.int64)
    return roots < MAX_ROOTS, roots


class SharedEnds:
    """Look-up of shared ends by their tokens. They are never freed; rebuilding the index removes unused ones.

    Parameters
    ----------
    depth : tokens per item
    nodes, edges : allocate the nodes and edges of shared ends
    """

    def __init__(self, depth: int, nodes: NodeTable, edges: EdgeBlocks) -> None:
        self._nodes = nodes
        self._edges = edges
        # Per level: sorted keys (token and child packed into one number), and the node with this single edge.
        self.known = [(np.zeros(0, np.int64), np.zeros(0, np.int32)) for _ in range(depth)]

    def nodes_of(self, roots: NDArray[np.integer], tokens: IntArray) -> IntArray:
        """First nodes of the shared ends with these tokens; missing ends are created.

        Parameters
        ----------
        roots : [n]
        tokens : int32 [n, m], the last m tokens of each item
        """
        child = marks(roots)
        for place in reversed(range(tokens.shape[1])):
            level = len(self.known) - tokens.shape[1] + place
            child = self._nodes_at(level, (tokens[:, place].astype(np.int64) << 32) | child)
        return child.astype(np.int32)

    def count(self) -> int:
        """Number of nodes, each with one edge."""
        return sum(len(nodes) for _, nodes in self.known)

    def _nodes_at(self, level: int, keys: IndexArray) -> IndexArray:
        known, nodes = self.known[level]
        at = np.searchsorted(known, keys)
        missing = np.ones(len(keys), dtype=bool)
        inside = at < len(known)
        missing[inside] = known[at[inside]] != keys[inside]
        if missing.any():
            fresh = np.unique(keys[missing])
            made = self._nodes.allocate(len(fresh))
            ones = np.ones(len(fresh), dtype=np.int64)
            start = self._edges.allocate(ones)
            self._edges.token.values[start] = fresh >> 32
            self._edges.child.values[start] = fresh & 0xFFFFFFFF
            self._edges.leaf.values[start] = -1
            self._nodes.write(made, start, ones, ones)
            before = np.searchsorted(known, fresh)
            known, nodes = np.insert(known, before, fresh), np.insert(nodes, before, made)
            self.known[level] = known, nodes
            at = np.searchsorted(known, keys)
        return nodes[at].astype(np.int64)
