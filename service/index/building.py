"""Builds all levels of the constraint index at once from token tuples: one sort, then one pass a level.

Symbols: n items, depth tokens an item. Knows nothing of what tokens mean, nor of later changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidInput

IntArray = NDArray[np.int32]
IndexArray = NDArray[np.int64] | IntArray

PACKED_BITS = 63


@dataclass(frozen=True, slots=True)
class Levels:
    """A finished build, nodes and edges numbered level by level.

    Attributes
    ----------
    node_start, node_count, node_leaves : int32 [nodes]
    edge_token, edge_child : int32 [edges]
    node_ranges : first and one past the last node of each level
    """

    node_start: IntArray
    node_count: IntArray
    node_leaves: IntArray
    edge_token: IntArray
    edge_child: IntArray
    node_ranges: tuple[tuple[int, int], ...]


def build_levels(tokens: IntArray, roots: IntArray, leaves: IntArray, root_count: int) -> Levels:
    """Sort the tuples below their roots and lay out nodes and edges.

    Parameters
    ----------
    tokens : int32 [n, depth], n at least 1
    roots, leaves : int32 [n]
    root_count : nodes 0..root_count - 1 are roots

    Raises
    ------
    InvalidInput : a value is out of range, or two items of one root have equal tokens
    """
    _check(tokens, roots, leaves, root_count)
    items, depth = tokens.shape
    order = _sorting(tokens, roots)
    tokens, roots, leaves = tokens[order], roots[order], leaves[order]

    # differs[i]: row i begins a new prefix, first of the root alone, then of one more token with every level.
    differs = np.ones(items, dtype=bool)
    differs[1:] = roots[1:] != roots[:-1]
    node_at = np.searchsorted(roots, np.arange(root_count)).astype(np.int64)  # first row of each node of this level
    node_of = roots.astype(np.int64)  # number of a row's node within its level
    node_count: list[IndexArray] = []
    node_start: list[IndexArray] = []
    node_leaves: list[IndexArray] = []
    edge_token: list[IndexArray] = []
    edge_child: list[IndexArray] = []
    ranges: list[tuple[int, int]] = []
    first_node, first_edge = 0, 0
    for level in range(depth):
        differs[1:] |= tokens[1:, level] != tokens[:-1, level]
        edge_at = np.flatnonzero(differs)
        count = np.bincount(node_of[edge_at], minlength=len(node_at))
        start = first_edge + np.cumsum(count) - count
        node_count.append(count)
        node_start.append(np.where(count > 0, start, 0))
        node_leaves.append(np.diff(np.append(node_at, items)))
        ranges.append((first_node, first_node + len(node_at)))
        first_node += len(node_at)
        first_edge += len(edge_at)
        edge_token.append(tokens[edge_at, level])
        edge_child.append(first_node + np.arange(len(edge_at)) if level < depth - 1 else leaves[edge_at])
        node_at, node_of = edge_at, np.cumsum(differs) - 1
    if len(node_at) < items:
        row = int(np.flatnonzero(~differs)[0])
        raise InvalidInput(f"two items below root {roots[row]} have equal tokens {tokens[row].tolist()}")
    return Levels(
        node_start=_joined(node_start),
        node_count=_joined(node_count),
        node_leaves=_joined(node_leaves),
        edge_token=_joined(edge_token),
        edge_child=_joined(edge_child),
        node_ranges=tuple(ranges),
    )


def _check(tokens: IntArray, roots: IntArray, leaves: IntArray, root_count: int) -> None:
    if roots.min() < 0 or roots.max() >= root_count:
        raise InvalidInput(f"roots range from {roots.min()} to {roots.max()}, but must be within 0..{root_count - 1}")
    if tokens.min() < 0 or leaves.min() < 0:
        raise InvalidInput(f"least token is {tokens.min()} and least leaf {leaves.min()}, but none may be negative")


def _sorting(tokens: IntArray, roots: IntArray) -> NDArray[np.int64]:
    """Order of the rows by root, then token by token.

    One sort of packed keys where the tuple fits 63 bits (always so for real layouts), which is several times faster
    than the column-wise sort that covers the rest.
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


def _joined(levels: list[IndexArray]) -> IntArray:
    return np.concatenate(levels).astype(np.int32)
