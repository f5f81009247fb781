"""Constraint index: a trie of fixed depth in flat arrays, with one root per domain, updated while it is being read.

Symbols: n items, depth = L + N + 1 tokens per item. Each domain has one *root*, numbered from 0; its node is
`TrieArrays.roots[root]`. The children of a node are the edges `edge_*[start : start + count]`, sorted by token. An edge
points to a node, or at the last level to a leaf, which is a number chosen by the caller.

Updates are copy-on-write: an update copies every node on the path to the changed items, then publishes the new state in
one assignment. Readers keep the state they took for as long as they need it; readers and the writer never wait for each
other. Slots of an old state are reused once no reader holds a state that old. Only one thread at a time may update a
trie. Independent of items, stores and graphs.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidInput
from service.index.building import Levels, build_levels, check_values, sorting
from service.index.changing import Change, Garbage, Rows
from service.index.ends import SharedEnds
from service.index.journal import Journal, Written
from service.index.state import NO_LEAF, TrieArrays, TrieState
from service.index.storage import Column, EdgeBlocks, IndexArray, NodeTable, floor_kinds

__all__ = ["NO_LEAF", "CodeTrie", "TrieArrays", "TrieState"]

IntArray = NDArray[np.int32]


class CodeTrie:
    """Trie over token tuples of one fixed depth.

    Parameters
    ----------
    depth : tokens per item
    root_count : number of initial roots, all empty
    shared_levels : number of last levels that single-item branches with equal tokens share (`ends.py`). A search then
        finds a mark in place of the item's leaf; `TrieState.leaves` resolves it. 0: every leaf is in `edge_child`
    """

    def __init__(self, depth: int, root_count: int, shared_levels: int = 0) -> None:
        self._depth = depth
        self._shared_from = max(1, depth - shared_levels)
        self._nodes, self._edges = NodeTable(), EdgeBlocks()
        self._edges.fit()
        self._ends = SharedEnds(depth, self._nodes, self._edges)
        # Per level, a histogram of the number of children per node; updated by every change, so the fanout is exact.
        self._sizes: list[IndexArray] = [np.zeros(1, dtype=np.int64) for _ in range(depth)]
        self._garbage: deque[tuple[weakref.ref[TrieArrays], Garbage]] = deque()
        self._journal, self._version = Journal(), 0
        self._show(self._new_roots(root_count))

    @classmethod
    def from_tokens(
        cls, tokens: IntArray, roots: IntArray, leaves: IntArray, root_count: int, shared_levels: int = 0
    ) -> CodeTrie:
        """Build from unsorted token tuples; vectorised.

        Parameters
        ----------
        tokens : int32 [n, depth], not negative
        roots : int32 [n], each within 0..root_count - 1; until the first update root r is node r
        leaves : int32 [n], not negative
        root_count : number of roots, including empty ones
        shared_levels : see the class

        Raises
        ------
        InvalidInput : a shape or a value is out of range, or two items of one root have equal tokens
        """
        tokens, roots, leaves = np.asarray(tokens), np.asarray(roots), np.asarray(leaves)
        if tokens.ndim != 2 or tokens.shape[1] < 1:
            raise InvalidInput(f"tokens have shape {tokens.shape}, but must be [n, depth]")
        _check_shapes(tokens, roots, leaves, tokens.shape[1])
        if not len(tokens):
            return cls(tokens.shape[1], root_count, shared_levels)
        trie = cls(tokens.shape[1], 0, shared_levels)
        trie._adopt(build_levels(tokens, roots, leaves, root_count, trie._shared_from))
        trie._show(np.arange(root_count, dtype=np.int32))
        return trie

    @classmethod
    def from_saved(cls, saved: Mapping[str, NDArray[Any]]) -> CodeTrie:
        """Restore a trie from the arrays of `to_save`. It takes them over; they may be memory-mapped."""
        depth, shared_from = saved["levels"].tolist()
        trie = cls(depth, 0, depth - shared_from)
        nodes, edges = trie._nodes, trie._edges
        for name, column in trie._columns().items():
            column.values = saved[name]
        nodes.used, edges.used = len(saved["node_start"]), len(saved["edge_token"])
        edges.fit()
        trie._sizes = _parts(saved["sizes"], saved["size_counts"])
        ends = _parts(saved["end_keys"], saved["end_counts"]), _parts(saved["end_nodes"], saved["end_counts"])
        trie._ends.known = list(zip(*ends, strict=True))
        trie._show(saved["roots"])
        return trie

    def to_save(self) -> dict[str, NDArray[Any]]:
        """The current state as flat arrays, for `from_saved`; the trie must not be updated while they are in use."""
        used = {"node": self._nodes.used, "edge": self._edges.used}
        columns = {name: column.values[: used[name[:4]]] for name, column in self._columns().items()}
        keys, nodes = zip(*self._ends.known, strict=True)
        return {
            **columns,
            "levels": np.array([self._depth, self._shared_from], dtype=np.int64),
            "roots": self._state.arrays.roots,
            "sizes": np.concatenate(self._sizes),
            "size_counts": np.array([len(sizes) for sizes in self._sizes], dtype=np.int64),
            "end_keys": np.concatenate(keys),
            "end_nodes": np.concatenate(nodes),
            "end_counts": np.array([len(part) for part in nodes], dtype=np.int64),
        }

    def _columns(self) -> dict[str, Column]:
        nodes, edges = self._nodes, self._edges
        return {
            "node_start": nodes.start,
            "node_count": nodes.count,
            "node_leaves": nodes.leaves,
            "node_kind": nodes.kind,
            "edge_token": edges.token,
            "edge_child": edges.child,
            "edge_leaf": edges.leaf,
        }

    @property
    def state(self) -> TrieState:
        """The current state: an immutable snapshot."""
        return self._state

    def arrays(self) -> TrieArrays:
        """The current state as a graph reads it."""
        return self._state.arrays

    def leaf_count(self, root: int) -> int:
        """Number of items of a root."""
        return self._state.leaf_count(root)

    def nbytes(self) -> int:
        """Bytes of all array entries in use; spare capacity takes no memory before it is written."""
        return 16 * self._nodes.used + 12 * self._edges.used + 12 * self._ends.count()

    def slack(self) -> float:
        """Share of allocated edge slots without an edge: their block was freed, or is larger than needed."""
        filled = sum(int((sizes * np.arange(len(sizes))).sum()) for sizes in self._sizes) + self._ends.count()
        return 1 - filled / max(self._edges.used, 1)

    def add_root(self) -> int:
        """Add an empty root; returns its number."""
        self._keep_count()
        state = self._state.arrays
        # This frees no slots, but slots that later changes free must not be reused before this state is released.
        self._garbage.append((weakref.ref(state), Garbage()))
        self._show(np.concatenate([state.roots, self._new_roots(1)]))
        return len(self._state.arrays.roots) - 1

    def blocked_edges(self, roots: IntArray, tokens: IntArray) -> IntArray:
        """`TrieState.blocked_edges` of the current state."""
        return self._state.blocked_edges(np.asarray(roots), np.asarray(tokens))

    def insert(self, root: int, tokens: Sequence[int] | IntArray, leaf: int) -> None:
        """Add one item (see `change`)."""
        self.change(added=(np.array([root], dtype=np.int32), self._one(tokens), np.array([leaf], dtype=np.int64)))

    def delete(self, root: int, tokens: Sequence[int] | IntArray) -> int:
        """Remove one item and return its leaf (see `change`)."""
        return int(self.change(removed=(np.array([root], dtype=np.int32), self._one(tokens)))[0])

    def change(
        self,
        removed: tuple[IntArray, IntArray] | None = None,
        added: tuple[IntArray, IntArray, NDArray[np.integer]] | None = None,
    ) -> IntArray:
        """Remove and add items atomically: readers see the whole update or none of it.

        Parameters
        ----------
        removed : roots int32 [n] and tokens int32 [n, depth]
        added : roots int32 [n], tokens int32 [n, depth] and leaves [n]; tokens may equal those of a removed item

        Returns
        -------
        int32 [n], leaves of the removed items

        Raises
        ------
        InvalidInput : tokens to remove are missing, tokens to add exist, some are repeated, or a number is out of
            range; nothing was changed
        """
        nothing = np.zeros(0, dtype=np.int32), np.zeros((0, self._depth), dtype=np.int32)
        removed, added = removed or nothing, added or (*nothing, nothing[0])
        _check_shapes(removed[1], removed[0], removed[0], self._depth)
        _check_shapes(added[1], added[0], added[2], self._depth)
        count = len(removed[0])
        roots = np.concatenate([removed[0], added[0]])
        tokens = np.concatenate([removed[1], added[1]]).astype(np.int32, copy=False)
        if not len(roots):
            return nothing[0]
        check_values(tokens, roots, np.concatenate([added[2], [0]]), len(self._state.arrays.roots))
        before = self._state.find(roots, tokens)
        after = np.concatenate([np.full(count, NO_LEAF), added[2]]).astype(np.int32)
        # The sort is stable: of equal tuples, the removed one comes first.
        order = sorting(tokens, roots) if len(roots) > 1 else np.zeros(1, dtype=np.int64)
        same = np.zeros(len(order), dtype=bool)
        same[1:] = (np.diff(roots[order]) == 0) & (np.diff(tokens[order], axis=0) == 0).all(axis=1)
        self._check(roots, tokens, before, order, same=same, removed=count)
        kept = order[np.append(~same[1:], True)]
        rows = Rows(roots[kept].astype(np.int32), tokens[kept], before[kept], after[kept])
        self._reclaim()
        self._keep_count()
        change = Change(self._nodes, self._edges, self._ends, self._sizes, self._shared_from)
        state = self._state.arrays
        root_nodes = change.apply(state.roots, rows)
        self._garbage.append((weakref.ref(state), change.garbage))
        del state
        self._show(root_nodes)
        return before[:count]

    def _check(
        self,
        roots: IntArray,
        tokens: IntArray,
        before: IntArray,
        order: IndexArray,
        *,
        same: NDArray[np.bool_],
        removed: int,
    ) -> None:
        """Refuse an update after which a tuple would have more than one leaf."""
        # If tokens are both removed and added, the added row may exist before the update.
        replaces = np.zeros(len(order), dtype=bool)
        replaces[order[1:]] = same[1:] & (order[:-1] < removed) & (order[1:] >= removed)
        twice = np.zeros(len(order), dtype=bool)
        twice[order] = same
        twice &= ~replaces
        missing = (np.arange(len(order)) < removed) & (before == NO_LEAF)
        present = (np.arange(len(order)) >= removed) & (before != NO_LEAF) & ~replaces
        for bad, what in ((missing, "are not below"), (present, "are already below"), (twice, "are named twice for")):
            if bad.any():
                row = int(bad.argmax())
                raise InvalidInput(f"tokens {tokens[row].tolist()} {what} root {roots[row]}")

    def _one(self, tokens: Sequence[int] | IntArray) -> IntArray:
        row = np.asarray(tokens, dtype=np.int64).reshape(1, -1)
        if row.shape[1] != self._depth:
            raise InvalidInput(f"{row.shape[1]} tokens {row[0].tolist()}, but the index has {self._depth} levels")
        return row.astype(np.int32)

    def _adopt(self, levels: Levels) -> None:
        """Take over the arrays of a build; its blocks have no spare slots."""
        nodes, edges = self._nodes, self._edges
        nodes.start.values, nodes.count.values = levels.node_start, levels.node_count
        nodes.leaves.values, nodes.kind.values = levels.node_leaves, floor_kinds(levels.node_count)
        nodes.used = len(levels.node_start)
        edges.token.values, edges.child.values = levels.edge_token, levels.edge_child
        edges.leaf.values, edges.used = levels.edge_leaf, len(levels.edge_token)
        self._sizes = [np.bincount(levels.node_count[first:end]) for first, end in levels.node_ranges]
        for ending in levels.endings:
            edges.child.values[ending.edges] = self._ends.nodes_of(ending.roots, ending.tokens)

    def _new_roots(self, count: int) -> IntArray:
        roots = self._nodes.allocate(count)
        nothing = np.zeros(count, dtype=np.int32)
        self._nodes.write(roots, nothing, nothing, nothing)
        self._sizes[0][0] += count
        return roots

    def _show(self, root_nodes: IntArray) -> None:
        """Publish the arrays, with everything written so far, as the current state."""
        nodes, edges = self._nodes, self._edges
        used = max(edges.used, 1)
        self._version += 1
        if nodes.handed is not None and edges.handed is not None:
            self._journal.note(self._version, Written.of(nodes.handed, edges.handed))
            nodes.handed, edges.handed = [], []
        arrays = TrieArrays(
            node_start=nodes.start.values[: nodes.used],
            node_count=nodes.count.values[: nodes.used],
            edge_token=edges.token.values[:used],
            edge_child=edges.child.values[:used],
            fanout=tuple(_largest(sizes) for sizes in self._sizes),
            roots=root_nodes,
            version=self._version,
            journal=self._journal,
        )
        self._state = TrieState(self._depth, arrays, edges.leaf.values[:used], nodes.leaves.values[: nodes.used])

    def _keep_count(self) -> None:
        """Before a change: start logging written slots if copies must be patched, stop if there are no copies."""
        if not self._journal.is_read():
            self._nodes.handed = self._edges.handed = None
            return
        if self._nodes.handed is None:
            self._journal.begin(self._version)
        # Slots allocated by a failed change are logged with the next one.
        self._nodes.handed, self._edges.handed = self._nodes.handed or [], self._edges.handed or []

    def _reclaim(self) -> None:
        """Free the slots of states that are no longer referenced, oldest first."""
        while self._garbage and self._garbage[0][0]() is None:
            _, garbage = self._garbage.popleft()
            for nodes in garbage.nodes:
                self._nodes.free(nodes)
            for starts, kinds in garbage.blocks:
                self._edges.free(starts, kinds)


def _check_shapes(tokens: NDArray[np.integer], roots: IntArray, leaves: NDArray[np.integer], depth: int) -> None:
    if tokens.ndim != 2 or tokens.shape[1] != depth:
        raise InvalidInput(f"tokens have shape {list(tokens.shape)}, but the index has {depth} levels")
    if roots.shape != (len(tokens),) or leaves.shape != (len(tokens),):
        raise InvalidInput(
            f"{len(tokens)} token tuples come with roots of shape {roots.shape} and leaves of shape {leaves.shape}"
        )


def _largest(sizes: IndexArray) -> int:
    """Largest number of children of any node, at least 1."""
    met = sizes.nonzero()[0]
    return max(1, int(met[-1])) if len(met) else 1


def _parts(joined: NDArray[Any], counts: IndexArray) -> list[NDArray[Any]]:
    """Split a concatenated array; copies the parts, since they are updated in place."""
    return [part.copy() for part in np.split(joined, np.cumsum(counts)[:-1])]
