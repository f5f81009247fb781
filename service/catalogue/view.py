"""Immutable view of the live catalogue for a batch of searches: one state of the index, and the items of its leaves.

Items that were deleted after the view was made are still found in it. Independent of stores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.catalogue.records import ItemKey
from service.catalogue.table import CatalogueEntry, CatalogueTable
from service.errors import UnknownDomain
from service.index.nearest import nearest_paths
from service.index.trie import NO_LEAF, CodeTrie, TrieArrays, TrieState
from service.semantic_ids import TokenLayout

IntArray = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class PublishedIds:
    """Domains and semantic IDs of items, int32 [n, L + N + 1]; they never belong to other items of the domain."""

    domains: Sequence[str]
    values: IntArray


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An item whose semantic ID has a prefix of `shared` (of L + N + 1) tokens in common with another item."""

    entry: CatalogueEntry
    shared: int


@dataclass(frozen=True, slots=True, eq=False)
class CatalogueView:
    """One state of table and index.

    Attributes
    ----------
    table : items by ordinal
    layout : how IDs become tokens
    state : index over some or all items of the table; its leaves are ordinals
    domains : number of each domain's root in the index
    """

    table: CatalogueTable
    layout: TokenLayout
    state: TrieState
    domains: Mapping[str, int]

    @property
    def arrays(self) -> TrieArrays:
        """The constraint index as a graph reads it."""
        return self.state.arrays

    def roots(self, domains: Sequence[str]) -> IntArray:
        """Start nodes of the beams, int32 [R]; duplicate domains count once.

        Raises
        ------
        UnknownDomain : a domain has never held an item
        """
        for domain in domains:
            if domain not in self.domains:
                raise UnknownDomain(f"domain {domain!r} holds no item; known are {sorted(self.domains)}")
        return self.arrays.roots[[self.domains[domain] for domain in dict.fromkeys(domains)]]

    def blocked(self, keys: Sequence[ItemKey], ids: PublishedIds | None = None) -> IntArray:
        """Edges that block exactly these items, int32 [X]; unknown items are ignored.

        Parameters
        ----------
        keys : items to block, looked up by key
        ids : published IDs of further items to block, which need no look-up
        """
        if ids is None:
            return self.state.blocked_edges(*self._paths(keys))
        roots, tokens = self._published_paths(ids)
        if keys:
            more_roots, more_tokens = self._paths(keys)
            roots, tokens = np.concatenate([more_roots, roots]), np.concatenate([more_tokens, tokens])
        return self.state.blocked_edges(roots, tokens)

    def items(self, leaves: IntArray, tokens: IntArray) -> list[CatalogueEntry]:
        """The items that a search found.

        Parameters
        ----------
        leaves : int32 [n], from the search
        tokens : int32 [n, L + N + 1], the path to each leaf
        """
        return self.table.entries_at(self.state.leaves(leaves, tokens).tolist())

    def alike(self, key: ItemKey, count: int) -> list[Neighbour]:
        """At most `count` other items of a live item's domain, longest common ID prefix first."""
        roots, own = self._paths([key])
        if not (self.state.find(roots, own) != NO_LEAF).any():
            return []
        near = nearest_paths(self.arrays, int(self.arrays.roots[roots[0]]), own[0].tolist(), count)
        paths = np.array(near, dtype=np.int32).reshape(-1, self.layout.depth)
        entries = self.table.entries_at(self.state.find(np.repeat(roots, len(paths)), paths).tolist())
        shared = (paths != own).argmax(axis=1).tolist()
        return [Neighbour(entry, levels) for entry, levels in zip(entries, shared, strict=True)]

    def restricted(self, keys: Sequence[ItemKey]) -> CatalogueView:
        """A view with only these items, over its own index; unknown items are ignored."""
        roots, tokens = self._paths(list(dict.fromkeys(keys)))
        ordinals = self.state.find(roots, tokens)
        there = ordinals != NO_LEAF
        trie = CodeTrie.from_tokens(tokens[there], roots[there], ordinals[there], len(self.arrays.roots))
        return CatalogueView(self.table, self.layout, trie.state, self.domains)

    def _paths(self, keys: Sequence[ItemKey]) -> tuple[IntArray, IntArray]:
        """Roots int32 [n] and tokens int32 [n, depth] of the known keys, recently deleted ones included."""
        found = [
            (self.domains[key.domain], ordinal)
            for key in keys
            if key.domain in self.domains and (ordinal := self.table.ordinal(key, deleted=True)) is not None
        ]
        rows = np.array(found, dtype=np.int32).reshape(-1, 2)
        return rows[:, 0], self.layout.tokens(self.table.values(rows[:, 1]))

    def _published_paths(self, ids: PublishedIds) -> tuple[IntArray, IntArray]:
        """Roots int32 [n] and tokens int32 [n, depth] of the IDs with a known domain."""
        there = [row for row, domain in enumerate(ids.domains) if domain in self.domains]
        values = ids.values if len(there) == len(ids.domains) else ids.values[there]
        roots = [self.domains[ids.domains[row]] for row in there]
        return np.array(roots, dtype=np.int32), self.layout.tokens(values)
