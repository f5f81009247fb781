"""Builds the constraint index from token tuples: one sort, then one pass per level.

Symbols: n items, depth tokens per item. Independent of the meaning of tokens, and of later changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidInput
from service.index.ends import MAX_ROOTS, TOP_MARK

IntArray = NDArray[np.int32]
IndexArray = NDArray[np.int64]

PACKED_BITS = 63


@dataclass(frozen=True, slots=True)
class Ending:
    """Items that are the only one below an edge, whose remaining tokens become shared ends.

    Attributes
    ----------
    edges : int64 [s], the edges that point to the shared ends; their `edge_child` is still to be filled in
    roots : int32 [s]
    tokens : int32 [s, m], the tokens after these edges
    """

    edges: IndexArray
    roots: IntArray
    tokens: IntArray


@dataclass(frozen=True, slots=True)
class Levels:
    """Result of a build; nodes and edges are numbered level by level.

    Attributes
    ----------
    node_start, node_count, node_leaves : int32 [nodes]
    edge_token, edge_child : int32 [edges]
    edge_leaf : int32 [edges], the item's leaf where an edge points to a shared end, else -1
    node_ranges : first and one past the last node of each level
    endings : one entry per level at which shared ends begin
    """

    node_start: IntArray
    node_count: IntArray
    node_leaves: IntArray
    edge_token: IntArray
    edge_child: IntArray
    edge_leaf: IntArray
    node_ranges: tuple[tuple[int, int], ...]
    endings: tuple[Ending, ...]


def build_levels(tokens: IntArray, roots: IntArray, leaves: IntArray, root_count: int, shared_from: int) -> Levels:
    """Sort the tuples by root and tokens, and lay out nodes and edges.

    Parameters
    ----------
    tokens : int32 [n, depth], n at least 1
    roots, leaves : int32 [n]
    root_count : nodes 0..root_count - 1 are roots
    shared_from : first level at which a branch with a single item becomes a shared end; depth: none does

    Raises
    ------
    InvalidInput : a value is out of range, or two items of one root have equal tokens
    """
    check_values(tokens, roots, leaves, root_count)
    depth = tokens.shape[1]
    order = sorting(tokens, roots)
    columns = [tokens[order, level] for level in range(depth)]
    roots, leaves = roots[order], leaves[order]
    rows = np.arange(len(order))  # rows that are not in a shared end yet

    # differs[i]: row i starts a new prefix: of the root at first, then of one more token per level.
    differs = np.ones(len(rows), dtype=bool)
    differs[1:] = roots[1:] != roots[:-1]
    node_at = np.searchsorted(roots, np.arange(root_count)).astype(np.int64)  # first row of each node of this level
    node_of = roots.astype(np.int64)  # number of a row's node within its level
    node_parts: list[tuple[IndexArray, IndexArray, IndexArray]] = []
    edge_parts: list[tuple[IntArray, IndexArray | IntArray, IntArray]] = []
    ranges: list[tuple[int, int]] = []
    endings: list[Ending] = []
    first_node, first_edge = 0, 0
    for level in range(depth):
        token = columns[level][rows]
        differs[1:] |= token[1:] != token[:-1]
        edge_at = np.flatnonzero(differs)
        count = np.bincount(node_of[edge_at], minlength=len(node_at))
        start = first_edge + np.cumsum(count) - count
        node_parts.append((np.where(count > 0, start, 0), count, np.diff(np.append(node_at, len(rows)))))
        ranges.append((first_node, first_node + len(node_at)))
        first_node += len(node_at)
        below = np.diff(np.append(edge_at, len(rows)))
        if level == depth - 1:
            if len(edge_at) < len(rows):
                row = int(rows[np.flatnonzero(~differs)[0]])
                equal = [int(column[row]) for column in columns]
                raise InvalidInput(f"two items below root {roots[row]} have equal tokens {equal}")
            edge_parts.append((token, leaves[rows], np.full(len(rows), -1, dtype=np.int32)))
            break
        ends = (below == 1) & (level + 1 >= shared_from)
        single = rows[edge_at[ends]]
        child = np.where(ends, 0, first_node + np.cumsum(~ends) - 1)
        leaf = np.full(len(edge_at), -1, dtype=np.int32)
        leaf[ends] = leaves[single]
        edge_parts.append((token[edge_at], child, leaf))
        if len(single):
            following = np.stack([columns[later][single] for later in range(level + 1, depth)], axis=1)
            endings.append(Ending(first_edge + np.flatnonzero(ends), roots[single], following))
        first_edge += len(edge_at)
        kept = np.repeat(~ends, below)
        rows, differs = rows[kept], differs[kept]
        node_at, node_of = np.flatnonzero(differs), np.cumsum(differs) - 1
    starts, counts, under = (_joined(parts) for parts in zip(*node_parts, strict=True))
    edge_token, edge_child, edge_leaf = (_joined(parts) for parts in zip(*edge_parts, strict=True))
    return Levels(starts, counts, under, edge_token, edge_child, edge_leaf, tuple(ranges), tuple(endings))


def check_values(tokens: IntArray, roots: IntArray, leaves: IntArray, root_count: int) -> None:
    """Refuse numbers that are out of range.

    Raises
    ------
    InvalidInput : a root, a token or a leaf is out of range
    """
    if roots.min() < 0 or roots.max() >= root_count:
        raise InvalidInput(f"roots range from {roots.min()} to {roots.max()}, but must be within 0..{root_count - 1}")
    if tokens.min() < 0 or leaves.min() < 0:
        raise InvalidInput(f"least token is {tokens.min()} and least leaf {leaves.min()}, but none may be negative")
    if leaves.max() > TOP_MARK - MAX_ROOTS or root_count > MAX_ROOTS:
        raise InvalidInput(
            f"greatest leaf is {leaves.max()} and there are {root_count} roots, but at most {TOP_MARK - MAX_ROOTS} and "
            f"{MAX_ROOTS} are allowed"
        )


def sorting(tokens: IntArray, roots: IntArray) -> IndexArray:
    """Order of the rows by root, then token by token: int64 [n].

    Tuples that fit 63 bits, as those of all real layouts do, are sorted by one packed key, which is several times
    faster than the column-wise sort used otherwise.
    """
    columns = [roots, *tokens.T]
    lows = [int(column.min()) for column in columns]
    bits = [int(column.max() - low).bit_length() for column, low in zip(columns, lows, strict=True)]
    if sum(bits) > PACKED_BITS:
        return np.lexsort(columns[::-1])
    keys = np.zeros(len(roots), dtype=np.int64)
    for column, low, width in zip(columns, lows, bits, strict=True):
        keys = (keys << width) | (column.astype(np.int64) - low)
    return np.argsort(keys, kind="stable")


def _joined(parts: tuple[NDArray[np.integer], ...]) -> IntArray:
    return np.concatenate(parts).astype(np.int32, copy=False)
