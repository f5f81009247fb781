"""What a batch of searches sees of the live catalogue: one state of the index, and the items that its leaves stand for.

A view never changes; items that were deleted after it was made are still found in it. Knows nothing of stores.
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
    """Domains and semantic IDs of items, int32 [n, L + N + 1]; no other item of the domain ever has one of them."""

    domains: Sequence[str]
    values: IntArray


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An item whose semantic ID begins as another's does, for `shared` of its L + N + 1 tokens, in their order."""

    entry: CatalogueEntry
    shared: int


@dataclass(frozen=True, slots=True, eq=False)
class CatalogueView:
    """One state.

    Attributes
    ----------
    table : items by ordinal
    layout : how IDs become tokens
    state : an index over some or all items of the table; its leaves are ordinals
    domains : root of each domain in the index
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
        """Nodes at which beams start, int32 [R]; a domain named twice counts once.

        Raises
        ------
        UnknownDomain : a domain never held an item
        """
        for domain in domains:
            if domain not in self.domains:
                raise UnknownDomain(f"domain {domain!r} holds no item; known are {sorted(self.domains)}")
        return self.arrays.roots[[self.domains[domain] for domain in dict.fromkeys(domains)]]

    def blocked(self, keys: Sequence[ItemKey], ids: PublishedIds | None = None) -> IntArray:
        """Edges that cut exactly these items off, int32 [X]; items that are not there are passed over.

        Parameters
        ----------
        keys : some of them
        ids : the published IDs of others, which need not be looked up
        """
        if ids is None:
            return self.state.blocked_edges(*self._paths(keys))
        roots, tokens = self._published_paths(ids)
        if keys:
            more_roots, more_tokens = self._paths(keys)
            roots, tokens = np.concatenate([more_roots, roots]), np.concatenate([more_tokens, tokens])
        return self.state.blocked_edges(roots, tokens)

    def items(self, leaves: IntArray, tokens: IntArray) -> list[CatalogueEntry]:
        """The items that a search came to.

        Parameters
        ----------
        leaves : int32 [n], as the search found them
        tokens : int32 [n, L + N + 1], the way to each
        """
        return self.table.entries_at(self.state.leaves(leaves, tokens).tolist())

    def alike(self, key: ItemKey, count: int) -> list[Neighbour]:
        """At most `count` other items of a live item's domain, those that share most of its ID's beginning first."""
        roots, own = self._paths([key])
        if not (self.state.find(roots, own) != NO_LEAF).any():
            return []
        near = nearest_paths(self.arrays, int(self.arrays.roots[roots[0]]), own[0].tolist(), count)
        paths = np.array(near, dtype=np.int32).reshape(-1, self.layout.depth)
        entries = self.table.entries_at(self.state.find(np.repeat(roots, len(paths)), paths).tolist())
        shared = (paths != own).argmax(axis=1).tolist()
        return [Neighbour(entry, levels) for entry, levels in zip(entries, shared, strict=True)]

    def restricted(self, keys: Sequence[ItemKey]) -> CatalogueView:
        """A view of these items alone, over an index of its own; items that are not there are passed over."""
        roots, tokens = self._paths(list(dict.fromkeys(keys)))
        ordinals = self.state.find(roots, tokens)
        there = ordinals != NO_LEAF
        trie = CodeTrie.from_tokens(tokens[there], roots[there], ordinals[there], len(self.arrays.roots))
        return CatalogueView(self.table, self.layout, trie.state, self.domains)

    def _paths(self, keys: Sequence[ItemKey]) -> tuple[IntArray, IntArray]:
        """Roots int32 [n] and tokens int32 [n, depth] of those keys that are known, lately deleted ones included."""
        found = [
            (self.domains[key.domain], ordinal)
            for key in keys
            if key.domain in self.domains and (ordinal := self.table.ordinal(key, deleted=True)) is not None
        ]
        rows = np.array(found, dtype=np.int32).reshape(-1, 2)
        return rows[:, 0], self.layout.tokens(self.table.values(rows[:, 1]))

    def _published_paths(self, ids: PublishedIds) -> tuple[IntArray, IntArray]:
        """Roots int32 [n] and tokens int32 [n, depth] of those IDs whose domain is known."""
        there = [row for row, domain in enumerate(ids.domains) if domain in self.domains]
        values = ids.values if len(there) == len(ids.domains) else ids.values[there]
        roots = [self.domains[ids.domains[row]] for row in there]
        return np.array(roots, dtype=np.int32), self.layout.tokens(values)
