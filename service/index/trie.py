"""Constraint index: a growable trie of fixed depth in flat arrays, built, searched and changed with NumPy.

Symbols: n items, depth = L + N + 1 tokens an item, X blocked edges. A *root* is the node where one domain's items
begin; its number is a node number. The children of a node are the edges `edge_*[start : start + count]`, sorted by
token; an edge leads to a node, or at the last level to a leaf, which is any number that the caller chose.

Every node owns a block of edge slots. A node whose block is full moves to a larger one, taken from blocks given back
before or from the end of the arrays, so an insert or a delete touches one node a level. Knows nothing of items, stores
or graphs, and locks nothing: the caller keeps readers and writers apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidInput
from service.index.building import build_levels
from service.index.storage import EdgeBlocks, NodeTable

IntArray = NDArray[np.int32]

NO_LEAF = -1
"""What `CodeTrie.find` answers where nothing is stored."""


@dataclass(frozen=True, slots=True)
class TrieArrays:
    """The index as a graph reads it: views that are valid until the next change of the trie.

    Attributes
    ----------
    node_start, node_count : int32 [nodes], where a node's edges begin and how many they are
    edge_token, edge_child : int32 [edges], at least one long so that a gather never meets an empty axis;
        slots outside every node's range hold leftovers
    fanout : largest number of children that a node of each level has, at least 1
    """

    node_start: IntArray
    node_count: IntArray
    edge_token: IntArray
    edge_child: IntArray
    fanout: tuple[int, ...]


class CodeTrie:
    """Trie over token tuples of one fixed depth, several roots wide."""

    def __init__(self, depth: int, root_count: int) -> None:
        self._depth = depth
        self._nodes = NodeTable(depth)
        self._edges = EdgeBlocks()
        for _ in range(root_count):
            self.add_root()

    @classmethod
    def from_tokens(cls, tokens: IntArray, roots: IntArray, leaves: IntArray, root_count: int) -> CodeTrie:
        """Build from unsorted token tuples; vectorised.

        Parameters
        ----------
        tokens : int32 [n, depth], not negative
        roots : int32 [n], each within 0..root_count - 1; root r is node r
        leaves : int32 [n], not negative
        root_count : number of roots, those without items included

        Raises
        ------
        InvalidInput : a shape or a value is out of range, or two items of one root have equal tokens
        """
        tokens, roots, leaves = np.asarray(tokens), np.asarray(roots), np.asarray(leaves)
        if tokens.ndim != 2 or tokens.shape[1] < 1:
            raise InvalidInput(f"tokens have shape {tokens.shape}, but must be [n, depth]")
        if roots.shape != (len(tokens),) or leaves.shape != (len(tokens),):
            raise InvalidInput(
                f"{len(tokens)} token tuples come with roots of shape {roots.shape} and leaves of shape {leaves.shape}"
            )
        if not len(tokens):
            return cls(tokens.shape[1], root_count)
        levels = build_levels(tokens, roots, leaves, root_count)
        trie = cls(tokens.shape[1], 0)
        trie._nodes.adopt(levels)
        trie._edges.adopt(levels.edge_token, levels.edge_child)
        return trie

    @property
    def depth(self) -> int:
        """Tokens of an item."""
        return self._depth

    def leaf_count(self, node: int) -> int:
        """Number of leaves below a node."""
        return int(self._nodes.leaves[node])

    def arrays(self) -> TrieArrays:
        """Views of the arrays, valid until the next change."""
        nodes, edges = self._nodes, self._edges
        used = max(edges.used, 1)
        return TrieArrays(
            node_start=nodes.start[: nodes.used],
            node_count=nodes.count[: nodes.used],
            edge_token=edges.token[:used],
            edge_child=edges.child[:used],
            fanout=nodes.fanout(),
        )

    def add_root(self) -> int:
        """Add a root without items; returns its node number."""
        return self._nodes.new()

    def find(self, root: int, tokens: Sequence[int] | IntArray) -> int:
        """Leaf of a token tuple, `NO_LEAF` where there is none."""
        nodes, _ = self._descend(root, self._checked(tokens))
        return nodes[-1] if len(nodes) > self._depth else NO_LEAF

    def insert(self, root: int, tokens: Sequence[int] | IntArray, leaf: int) -> None:
        """Add one item; touches one node a level.

        Raises
        ------
        InvalidInput : the tokens are there already or of another depth; nothing was changed
        """
        path = self._checked(tokens)
        if leaf < 0 or min(path) < 0:
            raise InvalidInput(f"tokens {path} lead to leaf {leaf}, but none of them may be negative")
        shared, position = self._descend(root, path)
        if len(shared) > self._depth:
            raise InvalidInput(f"tokens {path} are already below root {root}")
        branch = len(shared) - 1
        below = [self._nodes.new() for _ in path[branch + 1 :]]
        chain = zip([shared[-1], *below], [*below, leaf], path[branch:], strict=True)
        for level, (node, child, token) in enumerate(chain, start=branch):
            self._add_edge(node, level, position, token, child)
        self._nodes.leaves[[*shared, *below]] += 1

    def delete(self, root: int, tokens: Sequence[int] | IntArray) -> int:
        """Remove one item and every node that this leaves empty, roots aside; returns its leaf.

        Raises
        ------
        InvalidInput : the tokens are not there or of another depth; nothing was changed
        """
        path = self._checked(tokens)
        nodes, _ = self._descend(root, path)
        if len(nodes) <= self._depth:
            raise InvalidInput(f"tokens {path} are not below root {root}")
        leaf = nodes.pop()
        self._nodes.leaves[nodes] -= 1
        # The deepest node with other leaves (or the root) loses one edge; every node below held this leaf alone.
        level = max((at for at, node in enumerate(nodes) if self._nodes.leaves[node]), default=0)
        self._remove_edge(nodes[level], level, path[level])
        for below in range(level + 1, self._depth):
            node = nodes[below]
            self._edges.release(int(self._nodes.start[node]), int(self._nodes.capacity[node]))
            self._nodes.free(node, below)
        return leaf

    def blocked_edges(self, root_of: IntArray, tokens: IntArray) -> IntArray:
        """Fewest edges that cut exactly these leaves off: the topmost under which every leaf is named.

        Tuples that are not in the trie are passed over; repeated ones count once.

        Parameters
        ----------
        root_of : int32 [n], root of each tuple
        tokens : int32 [n, depth]

        Returns
        -------
        int32 [X], positions in `edge_*`, ascending
        """
        if not len(tokens):
            return np.zeros(0, dtype=np.int32)
        edges = self._edges_of(np.asarray(root_of, dtype=np.int32), np.asarray(tokens, dtype=np.int32))
        blocked = []
        open_paths = np.unique(edges[edges[:, -1] >= 0], axis=0)
        for level in range(self._depth):
            positions, path, named = np.unique(open_paths[:, level], return_inverse=True, return_counts=True)
            below = named if level == self._depth - 1 else self._nodes.leaves[self._edges.child[positions]]
            full = named == below
            blocked.append(positions[full])
            open_paths = open_paths[~full[path]]
        return np.sort(np.concatenate(blocked)).astype(np.int32, copy=False)

    def _edges_of(self, root_of: IntArray, tokens: IntArray) -> IntArray:
        """Edge positions along each tuple, int32 [n, depth]; -1 from where a tuple leaves the trie.

        All tuples descend together: one binary search a level, over every node at once.
        """
        edges = np.full(tokens.shape, -1, dtype=np.int32)
        node = root_of
        alive = np.arange(len(tokens))
        for level in range(self._depth):
            wanted = tokens[alive, level]
            low = self._nodes.start[node].copy()
            end = low + self._nodes.count[node]
            high = end.copy()
            while (searching := low < high).any():
                middle = np.where(searching, (low + high) // 2, 0)
                less = self._edges.token[middle] < wanted
                low = np.where(searching & less, middle + 1, low)
                high = np.where(searching & ~less, middle, high)
            there = low < end
            there[there] = self._edges.token[low[there]] == wanted[there]
            alive, position = alive[there], low[there]
            edges[alive, level] = position
            node = self._edges.child[position]
        return edges

    def _checked(self, tokens: Sequence[int] | IntArray) -> list[int]:
        path = [int(token) for token in tokens]
        if len(path) != self._depth:
            raise InvalidInput(f"{len(path)} tokens {path}, but the index has {self._depth} levels")
        return path

    def _descend(self, root: int, path: list[int]) -> tuple[list[int], int]:
        """Follow tokens as far as they lead.

        Returns
        -------
        the nodes on the way, root first, and the leaf behind them if the way ends there; and the position of the last
        edge taken, or where the edge of the first token without one belongs
        """
        start, count, edge_token, edge_child = (
            self._nodes.start,
            self._nodes.count,
            self._edges.token,
            self._edges.child,
        )
        way, position = [root], 0
        for token in path:
            first = int(start[way[-1]])
            end = first + int(count[way[-1]])
            position = first + int(edge_token[first:end].searchsorted(token))
            if position == end or edge_token[position] != token:
                break
            way.append(int(edge_child[position]))
        return way, position

    def _add_edge(self, node: int, level: int, position: int, token: int, child: int) -> None:
        """Put an edge where it belongs, moving the node's block if that is full; `position` is void for a new node."""
        nodes, edges = self._nodes, self._edges
        start, count, capacity = int(nodes.start[node]), int(nodes.count[node]), int(nodes.capacity[node])
        if not count:
            position = start
        if count == capacity:
            larger = 1 << count.bit_length()
            target = edges.allocate(larger)
            edges.move(start, count, target)
            edges.release(start, capacity)
            position += target - start
            start = target
            nodes.start[node], nodes.capacity[node] = target, larger
        edges.open_slot(position, start + count)
        edges.token[position], edges.child[position] = token, child
        nodes.resize(node, level, count + 1)

    def _remove_edge(self, node: int, level: int, token: int) -> None:
        start, count = int(self._nodes.start[node]), int(self._nodes.count[node])
        position = start + int(self._edges.token[start : start + count].searchsorted(token))
        self._edges.close_slot(position, start + count)
        self._nodes.resize(node, level, count - 1)
