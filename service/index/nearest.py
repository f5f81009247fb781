"""Nearest neighbours of an item in the constraint index: the token tuples with the longest common prefix.

Uses only the arrays that a graph reads. Independent of items and leaves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from service.index.trie import TrieArrays

Path = tuple[int, ...]


def nearest_paths(arrays: TrieArrays, root: int, path: Sequence[int], count: int) -> list[Path]:
    """At most `count` token tuples other than `path`, by descending length of the prefix they share with it.

    Ties are ordered by tokens. The walk ends as soon as enough tuples are found.

    Parameters
    ----------
    root : node number of the domain's root
    path : depth tokens that are in the index
    """
    way = [root]
    for token in path[:-1]:
        edge = next(edge for edge in _edges(arrays, way[-1]) if arrays.edge_token[edge] == token)
        way.append(int(arrays.edge_child[edge]))
    found = (
        (*path[:level], *rest)
        for level in reversed(range(len(path)))
        for rest in _below(arrays, way[level], len(path) - level, path[level])
    )
    return list(islice(found, count))


def _below(arrays: TrieArrays, node: int, depth: int, passed: int | None = None) -> Iterator[Path]:
    """All tuples below a node, in order, except those whose first token is `passed`."""
    for edge in _edges(arrays, node):
        token = int(arrays.edge_token[edge])
        if token == passed:
            continue
        if depth == 1:
            yield (token,)
        else:
            for rest in _below(arrays, int(arrays.edge_child[edge]), depth - 1):
                yield (token, *rest)


def _edges(arrays: TrieArrays, node: int) -> range:
    start = int(arrays.node_start[node])
    return range(start, start + int(arrays.node_count[node]))
