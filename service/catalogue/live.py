"""The live catalogue: table and constraint index in memory, in step with the store.

Registering goes through the store and is applied here before the call returns, so the item can be recommended from then
on. What other replicas change arrives by `refresh`, which reads the current state of every key that the change log
names, so it does not matter how often or in which order a change is seen.

A batch of searches runs inside `searching`, where nothing changes; changes wait for the batches that have begun, and
new batches wait for changes. Knows nothing of HTTP or of graphs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.catalogue.census import Census
from service.catalogue.locking import ReadWriteLock
from service.catalogue.store import CatalogueStore, ItemKey, NewItem, Registered, StoredItem
from service.catalogue.table import CatalogueEntry, CatalogueTable
from service.errors import UnknownDomain
from service.index.nearest import nearest_paths
from service.index.trie import CodeTrie, TrieArrays
from service.semantic_ids import TokenLayout

__all__ = ["CatalogueEntry", "CatalogueView", "LiveCatalogue", "Neighbour"]

IntArray = NDArray[np.int32]

FETCHED_KEYS = 1000
"""Keys whose state one refresh step reads."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An item whose semantic ID begins as another's does, for `shared` of its L + N + 1 parts."""

    entry: CatalogueEntry
    shared: int


class CatalogueView:
    """What a batch of searches sees; valid inside the `searching` block that it comes from.

    Parameters
    ----------
    table : items by ordinal
    layout : how IDs become tokens
    trie : over some or all items of the table; its leaves are ordinals
    roots : node of each domain in the trie
    """

    def __init__(self, table: CatalogueTable, layout: TokenLayout, trie: CodeTrie, roots: dict[str, int]) -> None:
        self._table = table
        self._layout = layout
        self._trie = trie
        self._roots = roots

    @property
    def arrays(self) -> TrieArrays:
        """The constraint index as a graph reads it."""
        return self._trie.arrays()

    def roots(self, domains: Sequence[str]) -> IntArray:
        """Nodes at which beams start, int32 [R]; a domain named twice counts once.

        Raises
        ------
        UnknownDomain : a domain never held an item
        """
        for domain in domains:
            if domain not in self._roots:
                raise UnknownDomain(f"domain {domain!r} holds no item; known are {sorted(self._roots)}")
        return np.array([self._roots[domain] for domain in dict.fromkeys(domains)], dtype=np.int32)

    def blocked(self, keys: Sequence[ItemKey]) -> IntArray:
        """Edges that cut exactly these items off, int32 [X]; items that are not there are passed over."""
        roots, tokens, _ = self._paths(keys, self._roots)
        return self._trie.blocked_edges(roots, tokens)

    def item(self, leaf: int) -> CatalogueEntry:
        """The item that a leaf stands for."""
        return self._table.entry(leaf)

    def alike(self, key: ItemKey, count: int) -> list[Neighbour]:
        """At most `count` other items of a live item's domain, those that share most of its ID's beginning first."""
        _, tokens, _ = self._paths([key], self._roots)
        if not len(tokens):
            return []
        own, root = tokens[0].tolist(), self._roots[key.domain]
        found = []
        for path in nearest_paths(self.arrays, root, own, count):
            shared = next(level for level, token in enumerate(own) if path[level] != token)
            found.append(Neighbour(self._table.entry(self._trie.find(root, path)), shared))
        return found

    def restricted(self, keys: Sequence[ItemKey]) -> CatalogueView:
        """A view of these items alone, over an index of its own; items that are not there are passed over."""
        domains = list(self._roots)
        roots = {domain: number for number, domain in enumerate(domains)}
        node_of, tokens, ordinals = self._paths(list(dict.fromkeys(keys)), roots)
        trie = CodeTrie.from_tokens(tokens, node_of, ordinals, len(domains))
        return CatalogueView(self._table, self._layout, trie, roots)

    def _paths(self, keys: Sequence[ItemKey], roots: dict[str, int]) -> tuple[IntArray, IntArray, IntArray]:
        """Roots int32 [n], tokens int32 [n, depth] and ordinals int32 [n] of those keys that are live."""
        found = [(roots[key.domain], ordinal) for key in keys if (ordinal := self._table.ordinal(key)) is not None]
        rows = np.array(found, dtype=np.int32).reshape(-1, 2)
        return rows[:, 0], self._layout.tokens(self._table.values(rows[:, 1])), rows[:, 1]


@dataclass(slots=True)
class _State:
    """Table, index and census that belong together; replaced as one when everything is read anew."""

    table: CatalogueTable
    trie: CodeTrie
    roots: dict[str, int]
    census: Census


class LiveCatalogue:
    """One replica's view of a store.

    Every method may be called from any thread; inside a `searching` block only the view may be used.

    Parameters
    ----------
    store : read whole, here
    """

    def __init__(self, store: CatalogueStore) -> None:
        self._store = store
        self._layout = store.layout
        # Held over the store's answer and its application, so that no older state is applied after a newer one.
        self._applying = threading.Lock()
        self._lock = ReadWriteLock()
        self._fresh_at = time.monotonic()
        self._seen = store.head()
        self._state = self._read_all()

    @property
    def layout(self) -> TokenLayout:
        """How semantic IDs are packed."""
        return self._layout

    @property
    def store(self) -> CatalogueStore:
        """Where the catalogue is kept."""
        return self._store

    @property
    def age(self) -> float:
        """Seconds since this replica last had seen every change of the store."""
        return time.monotonic() - self._fresh_at

    def census(self) -> Census:
        """How the catalogue uses its token space, kept up with every change."""
        return self._state.census

    def domains(self) -> dict[str, int]:
        """Live items of each domain that has any."""
        return self._state.table.counts()

    def lookup(self, keys: Sequence[ItemKey]) -> list[CatalogueEntry | None]:
        """Items by key, None where there is none; never waits."""
        return self._state.table.entries(keys)

    def get(self, keys: Sequence[ItemKey]) -> list[StoredItem | None]:
        """Items with their content, read from the store."""
        return self._store.get(keys)

    @contextmanager
    def searching(self) -> Iterator[CatalogueView]:
        """Keep the catalogue as it is while the block runs."""
        with self._lock.reading():
            state = self._state
            yield CatalogueView(state.table, self._layout, state.trie, state.roots)

    def alike(self, key: ItemKey, count: int) -> list[Neighbour]:
        """See `CatalogueView.alike`."""
        with self.searching() as view:
            return view.alike(key, count)

    def register(self, items: Sequence[NewItem]) -> Registered:
        """Store items; those that were not refused can be recommended when the call returns.

        Raises
        ------
        InvalidInput, NotReady, StoreUnavailable : nothing was stored (see `CatalogueStore.register`)
        """
        with self._applying:
            registered = self._store.register(items)
            kept = np.flatnonzero(~registered.refused)
            packed = self._layout.pack(registered.values[kept])
            states = {
                ItemKey(items[row].domain, items[row].item_id): StoredItem(
                    items[row].domain, items[row].item_id, int(number), items[row].title
                )
                for row, number in zip(kept.tolist(), packed, strict=True)
            }
            self._apply(states)
        return registered

    def delete(self, key: ItemKey) -> bool:
        """Remove an item; it is recommended no more when the call returns. False where it was not there."""
        with self._applying:
            deleted = self._store.delete(key)
            self._apply({key: None})
        return deleted

    def refresh(self) -> int:
        """Apply what changed in the store since the last call; returns the number of changes seen.

        A replica that fell behind the log reads everything anew and swaps it in as one; that counts as one change.

        Raises
        ------
        StoreUnavailable : some changes may have been applied; the next call goes on from there
        """
        seen = 0
        while True:
            asked_at = time.monotonic()
            with self._applying:
                changes = self._store.changes(self._seen, FETCHED_KEYS)
                if changes.gap:
                    state = self._read_all()
                    with self._lock.writing():
                        self._state = state
                    self._seen, self._fresh_at = changes.last, asked_at
                    return seen + 1
                if not changes.keys:
                    self._fresh_at = asked_at
                    return seen
                keys = list(dict.fromkeys(changes.keys))
                self._apply(dict(zip(keys, self._store.get(keys), strict=True)))
                self._seen = changes.last
                seen += len(changes.keys)

    def _read_all(self) -> _State:
        """Table and index of everything that is in the store; the change log is to be followed from before the call."""
        table = CatalogueTable(self._layout)
        for batch in self._store.scan():
            table.add(batch)
        roots = {domain: number for number, domain in enumerate(table.domains())}
        ordinals, node_of = table.rows()
        values = table.values(ordinals)
        census = Census(self._layout)
        for domain, number in roots.items():
            census.add(domain, values[node_of == number])
        trie = CodeTrie.from_tokens(self._layout.tokens(values), node_of, ordinals, len(roots))
        return _State(table, trie, roots, census)

    def _apply(self, states: Mapping[ItemKey, StoredItem | None]) -> None:
        """Bring table and index to the given states of some keys; waits for batches of searches that have begun."""
        table = self._state.table
        gone: list[ItemKey] = []
        retitled: list[tuple[int, str | None]] = []
        added: list[StoredItem] = []
        for key, item in states.items():
            ordinal = table.ordinal(key)
            if ordinal is None:
                added += [] if item is None else [item]
            elif item is None:
                gone.append(key)
            elif not table.has_id(ordinal, item.packed):
                # Only where somebody emptied the store and filled it anew.
                gone.append(key)
                added.append(item)
            elif table.title(ordinal) != item.title:
                retitled.append((ordinal, item.title))
        if gone or retitled or added:
            with self._lock.writing():
                self._change(gone, retitled, added)

    def _change(
        self, gone: Sequence[ItemKey], retitled: Sequence[tuple[int, str | None]], added: Sequence[StoredItem]
    ) -> None:
        table, trie, roots, census = self._state.table, self._state.trie, self._state.roots, self._state.census
        for key in gone:
            ordinal = table.ordinal(key)
            if ordinal is not None:
                values = table.values([ordinal])
                trie.delete(roots[key.domain], self._layout.tokens(values)[0])
                census.remove(key.domain, values)
                table.remove(key)
        for ordinal, title in retitled:
            table.retitle(ordinal, title)
        rows = table.add(added)
        values = table.values(rows)
        for domain in {item.domain for item in added}:
            census.add(domain, values[[item.domain == domain for item in added]])
        for item, ordinal, tokens in zip(added, rows, self._layout.tokens(values).tolist(), strict=True):
            if item.domain not in roots:
                roots[item.domain] = trie.add_root()
            trie.insert(roots[item.domain], tokens, leaf=ordinal)
