"""Applies a batch of additions and removals to the constraint index, level by level.

Copy-on-write: every node on the path to a changed item is copied into new slots, so readers of the previous state see
nothing of the change. If few items change, these are a few nodes per level. Independent of readers, and of when freed
slots may be reused.

Symbols: m rows, f rewritten nodes of a level, E their edges before the change, g changed edges.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.index.ends import SharedEnds
from service.index.storage import EdgeBlocks, IndexArray, IntArray, NodeTable, ranges

NONE = -1


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The leaves of some distinct token tuples before and after the change, sorted by root and tokens.

    Attributes
    ----------
    roots : int32 [m]
    tokens : int32 [m, depth]
    before, after : int32 [m], the tuple's leaf, `NONE` for none
    """

    roots: IntArray
    tokens: IntArray
    before: IntArray
    after: IntArray

    def change(self) -> IndexArray:
        """Change in the number of leaves by each row: int64 [m], -1, 0 or 1."""
        return np.asarray((self.after != NONE).astype(np.int64) - (self.before != NONE))

    def taken(self, which: NDArray[np.integer] | NDArray[np.bool_]) -> Rows:
        """The selected rows, in the given order."""
        return Rows(self.roots[which], self.tokens[which], self.before[which], self.after[which])

    def and_also(self, other: Rows) -> Rows:
        """These rows followed by those of `other`."""
        return Rows(
            np.concatenate([self.roots, other.roots]),
            np.concatenate([self.tokens, other.tokens]),
            np.concatenate([self.before, other.before]),
            np.concatenate([self.after, other.after]),
        )


@dataclass(slots=True, eq=False)
class Garbage:
    """Nodes and blocks that become free once no reader holds the state before the change."""

    nodes: list[IntArray] = field(default_factory=list)
    blocks: list[tuple[IntArray, IntArray]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class _Frontier:
    """Nodes of one level that are rewritten.

    Attributes
    ----------
    old : int32 [f], the node before the change, `NONE` if there is none
    new : int32 [f], the node after the change, `NONE` if no leaf is left below it
    leaves : int64 [f], leaves below after the change
    owner : int64 [m], each row's node, as an index into the other arrays
    """

    old: IntArray
    new: IntArray
    leaves: IndexArray
    owner: IndexArray


@dataclass(frozen=True, slots=True, eq=False)
class _Edges:
    """Edges of a frontier before the change, and those that the rows touch.

    Attributes
    ----------
    keys : int64 [E], owner and token packed into one number, ascending; child, leaf : int32 [E]
    wanted : int64 [g], keys of the touched edges
    first : int64 [g], the first row of each touched edge; rows of one edge are adjacent
    of_row : int64 [m], the touched edge of each row
    at : int64 [g], position of the touched edge among the E, or its insertion point
    there : bool [g], whether the touched edge existed before the change
    """

    keys: IndexArray
    child: IntArray
    leaf: IntArray
    wanted: IndexArray
    first: IndexArray
    of_row: IndexArray
    at: IndexArray
    there: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class _Outcome:
    """The touched edges after the change.

    Attributes
    ----------
    child, leaf : int32 [g], their new targets
    gone : bool [g], whether the edge is removed
    """

    child: IntArray
    leaf: IntArray
    gone: NDArray[np.bool_]


class Change:
    """One change of the index.

    Parameters
    ----------
    nodes, edges, ends : written to, in new slots only
    sizes : per level, a histogram of the number of children per node; updated
    shared_from : first level at which a branch with a single item is replaced by a shared end
    """

    def __init__(
        self, nodes: NodeTable, edges: EdgeBlocks, ends: SharedEnds, sizes: list[IndexArray], shared_from: int
    ) -> None:
        self._nodes = nodes
        self._edges = edges
        self._ends = ends
        self._sizes = sizes
        self._shared_from = shared_from
        self.garbage = Garbage()

    def apply(self, root_nodes: IntArray, rows: Rows) -> IntArray:
        """Write the new state. `root_nodes` and the result are the nodes of all roots, int32 [roots]."""
        depth = rows.tokens.shape[1]
        touched, owner = np.unique(rows.roots, return_inverse=True)
        old: IntArray = root_nodes[touched]
        leaves = np.bincount(owner, weights=rows.change()).astype(np.int64) + self._nodes.leaves.values[old]
        frontier = _Frontier(old, self._nodes.allocate(len(old)), leaves, owner.astype(np.int64))
        result = root_nodes.copy()
        result[touched] = frontier.new
        for level in range(depth):
            edges = self._touched(frontier, rows, level)
            if level == depth - 1:
                after = rows.after[edges.first]
                outcome = _Outcome(after, np.full(len(after), NONE, dtype=np.int32), after == NONE)
                self._write(frontier, edges, outcome, level)
                break
            frontier, rows = self._one_level(frontier, edges, rows, level)
            if not len(rows.roots):
                break
        return result

    def _touched(self, frontier: _Frontier, rows: Rows, level: int) -> _Edges:
        token = rows.tokens[:, level]
        begins = np.ones(len(token), dtype=bool)
        begins[1:] = (frontier.owner[1:] != frontier.owner[:-1]) | (token[1:] != token[:-1])
        first = np.flatnonzero(begins)
        known = np.flatnonzero(frontier.old != NONE)
        count = self._nodes.count.values[frontier.old[known]]
        slots = ranges(self._nodes.start.values[frontier.old[known]], count)
        keys = (known.repeat(count) << 32) | self._edges.token.values[slots]
        wanted = (frontier.owner[first].astype(np.int64) << 32) | token[first]
        at = keys.searchsorted(wanted)
        there = at < len(keys)
        there[there] = keys[at[there]] == wanted[there]
        return _Edges(
            keys=keys,
            child=self._edges.child.values[slots],
            leaf=self._edges.leaf.values[slots],
            wanted=wanted,
            first=first,
            of_row=np.cumsum(begins) - 1,
            at=at,
            there=there,
        )

    def _one_level(self, frontier: _Frontier, edges: _Edges, rows: Rows, level: int) -> tuple[_Frontier, Rows]:
        """Write the nodes of a level above the last; returns the frontier of the next level and its rows."""
        child, leaf = (np.full(len(edges.first), NONE, dtype=np.int32) for _ in range(2))
        child[edges.there] = edges.child[edges.at[edges.there]]
        leaf[edges.there] = edges.leaf[edges.at[edges.there]]
        ended = leaf != NONE
        inner = edges.there & ~ended
        before = ended.astype(np.int64)
        before[inner] = self._nodes.leaves.values[child[inner]]
        leaves = before + np.add.reduceat(rows.change(), edges.first)
        gone = leaves == 0
        ends = (leaves == 1) & ~inner & (level + 1 >= self._shared_from)
        grows = ~gone & ~ends

        # An item that loses its shared end, because its branch now holds others, joins the rows.
        opened = ended & grows
        stays = opened & ~np.logical_or.reduceat(rows.before != NONE, edges.first)
        joining_edge = np.flatnonzero(stays)
        joining = self._reopened(rows.taken(edges.first[stays]), child[stays], leaf[stays], level)
        below_ended = ended[edges.of_row]
        rows = Rows(rows.roots, rows.tokens, np.where(below_ended, NONE, rows.before).astype(np.int32), rows.after)
        child[ended] = NONE

        lone = np.flatnonzero(ends[edges.of_row] & (rows.after != NONE))
        new_child, new_leaf = (np.full(len(edges.first), NONE, dtype=np.int32) for _ in range(2))
        if len(lone):
            at = edges.of_row[lone]
            new_child[at] = self._ends.nodes_of(rows.roots[lone], rows.tokens[lone, level + 1 :])
            new_leaf[at] = rows.after[lone]
        new_child[grows] = self._nodes.allocate(int(grows.sum()))
        self._write(frontier, edges, _Outcome(new_child, new_leaf, gone), level)

        # The next level's frontier: edges that point to a new node, and old nodes to be freed.
        onward = grows | (gone & (child != NONE))
        number = np.cumsum(onward) - 1
        going = onward[edges.of_row] & ((rows.before != NONE) | (rows.after != NONE))
        owner = number[edges.of_row[going]]
        rows = rows.taken(going)
        if len(joining_edge):
            rows, owner = rows.and_also(joining), np.concatenate([owner, number[joining_edge]])
            order = np.lexsort([*rows.tokens.T[:level:-1], owner])
            rows, owner = rows.taken(order), owner[order]
        following = _Frontier(
            child[onward], np.where(grows, new_child, NONE)[onward].astype(np.int32), leaves[onward], owner
        )
        return following, rows

    def _reopened(self, beside: Rows, node: IntArray, leaf: IntArray, level: int) -> Rows:
        """The items of shared ends as rows.

        Parameters
        ----------
        beside : for each item, a row with the same root and the same tokens up to `level`
        node, leaf : int32, the first node of each item's shared end, and its leaf
        """
        tokens = beside.tokens
        for later in range(level + 1, tokens.shape[1]):
            slot = self._nodes.start.values[node]
            tokens[:, later] = self._edges.token.values[slot]
            node = self._edges.child.values[slot]
        return Rows(beside.roots, tokens, np.full(len(leaf), NONE, dtype=np.int32), leaf)

    def _write(self, frontier: _Frontier, edges: _Edges, outcome: _Outcome, level: int) -> None:
        """Write a level's nodes: their untouched edges, and the touched ones with their new targets."""
        child, leaf, kept = outcome.child, outcome.leaf, ~outcome.gone
        untouched = np.ones(len(edges.keys), dtype=bool)
        untouched[edges.at[edges.there]] = False
        keys = np.concatenate([edges.keys[untouched], edges.wanted[kept]])
        order = keys.argsort(kind="stable")
        keys = keys[order]

        self._free(frontier.old[frontier.old != NONE], level)
        lives = frontier.new != NONE
        counts = np.bincount(keys >> 32, minlength=len(lives))[lives]
        starts = self._edges.allocate(counts)
        slots = ranges(starts, counts)
        self._edges.token.values[slots] = keys & 0xFFFFFFFF
        self._edges.child.values[slots] = np.concatenate([edges.child[untouched], child[kept]])[order]
        self._edges.leaf.values[slots] = np.concatenate([edges.leaf[untouched], leaf[kept]])[order]
        self._nodes.write(frontier.new[lives], starts, counts, frontier.leaves[lives])
        self._count(level, counts, +1)

    def _free(self, nodes: IntArray, level: int) -> None:
        table = self._nodes
        self.garbage.nodes.append(nodes)
        self.garbage.blocks.append((table.start.values[nodes], table.kind.values[nodes]))
        self._count(level, table.count.values[nodes], -1)

    def _count(self, level: int, counts: NDArray[np.integer], change: int) -> None:
        most = int(counts.max(initial=0))
        if most >= len(self._sizes[level]):
            self._sizes[level] = np.concatenate([self._sizes[level], np.zeros(most + 1, dtype=np.int64)])
        np.add.at(self._sizes[level], counts, change)
