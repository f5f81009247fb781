"""Shared ends of the constraint index.

Most items are alone below their last code or two: what follows (a code, experts, a suffix) is a chain of nodes with one
edge each, and thousands of items have the same chain. Items of one root with the same chain share it. The last edge of
a shared end leads to a *mark* in place of a leaf, which tells the root; the leaf stands beside the edge that leads into
the end, which is the item's own.

Knows nothing of how the nodes before an end hang together.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.index.storage import EdgeBlocks, IndexArray, IntArray, NodeTable

TOP_MARK = 2**31 - 1
"""Mark of root 0; that of root r is r less."""

MAX_ROOTS = 1 << 20
"""Marks there are; leaves must be smaller than the least of them."""


def marks(roots: NDArray[np.integer]) -> IndexArray:
    """What stands for the leaf in the shared ends of these roots."""
    return TOP_MARK - roots.astype(np.int64)


def roots_of_marks(leaves: NDArray[np.integer]) -> tuple[NDArray[np.bool_], IndexArray]:
    """Which leaves are marks, and the roots that these tell (void elsewhere)."""
    roots = TOP_MARK - leaves.astype(np.int64)
    return roots < MAX_ROOTS, roots


class SharedEnds:
    """Nodes of shared ends by what follows; they stay until the index is built anew.

    Parameters
    ----------
    depth : tokens of an item
    nodes, edges : where nodes and edges are made
    """

    def __init__(self, depth: int, nodes: NodeTable, edges: EdgeBlocks) -> None:
        self._nodes = nodes
        self._edges = edges
        # By level: sorted keys (token and child in one number), and the node that has this one edge.
        self.known = [(np.zeros(0, np.int64), np.zeros(0, np.int32)) for _ in range(depth)]

    def nodes_of(self, roots: NDArray[np.integer], tokens: IntArray) -> IntArray:
        """First nodes of the ends with these tokens, made where they are missing.

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
