"""The live catalogue: table and constraint index in memory, in step with the store.

Registering goes through the store and is applied here before the call returns, so the item can be recommended from then
on. What other replicas change arrives by `refresh`, which reads the current state of every key that the change log
names, so it does not matter how often or in which order a change is seen.

A batch of searches runs inside `searching`, where nothing changes; changes wait for the batches that have begun, and
new batches wait for changes.

A store that was emptied or set back behind our back is given what is here, with the IDs it was published under, before
anything is read from it again: what was recommendable stays so. Knows nothing of HTTP or of graphs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from service.catalogue.census import Census
from service.catalogue.fingerprint import Fingerprints
from service.catalogue.locking import ReadWriteLock
from service.catalogue.store import CatalogueStore, ItemKey, NewItem, Registered, StoredItem, Totals
from service.catalogue.table import CatalogueEntry, CatalogueTable
from service.errors import UnknownDomain
from service.index.nearest import nearest_paths
from service.index.trie import CodeTrie, TrieArrays
from service.semantic_ids import TokenLayout

__all__ = ["Agreement", "CatalogueEntry", "CatalogueView", "LiveCatalogue", "Neighbour", "Reread"]

IntArray = NDArray[np.int32]

FETCHED_KEYS = 1000
"""Keys whose state one refresh step reads."""

COMPARE_ATTEMPTS = 5
"""Times that a comparison waits for a moment without changes."""

PUT_BACK_ITEMS = 1000
"""Items given back to a store in one step."""


class Reread(StrEnum):
    """Why everything was read anew."""

    BEHIND = "behind"
    """The log no longer held the changes since the last look."""
    LOST = "lost"
    """The store was emptied or set back; what it lacked was put back first."""
    DIFFERENT = "different"
    """The fingerprints differed."""


class Agreement(StrEnum):
    """Whether the live catalogue holds what the store says that it holds."""

    SAME = "same"
    BUSY = "busy"
    """Changes kept coming, so no moment could be compared."""
    HEALED = "healed"
    """It did not, and does now that everything was read anew."""
    UNPROVEN = "unproven"
    """Reading anew did not help: the counts or fingerprints that the store keeps are wrong."""


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
    fingerprints: Fingerprints


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
        self._lost = False
        self._rereading_helps = True
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

    def refresh(self, reread: Callable[[Reread], None] = lambda reason: None) -> int:
        """Apply what changed in the store since the last call; returns the number of changes seen.

        A replica that fell behind the log reads everything anew and swaps it in as one; that counts as one change.

        Parameters
        ----------
        reread : told why everything was read anew, if it was

        Raises
        ------
        StoreUnavailable : some changes may have been applied; the next call goes on from there
        """
        seen = 0
        while True:
            asked_at = time.monotonic()
            with self._applying:
                changes = self._store.changes(self._seen, FETCHED_KEYS)
                # Remembered, because the store says it once, and putting back may fail.
                self._lost = self._lost or changes.lost
                if changes.gap or self._lost:
                    reason = Reread.LOST if self._lost else Reread.BEHIND
                    if self._lost:
                        self._put_back()
                    self._read_anew()
                    self._seen, self._lost, self._fresh_at = changes.last, False, asked_at
                    reread(reason)
                    return seen + 1
                if not changes.keys:
                    self._fresh_at = asked_at
                    return seen
                keys = list(dict.fromkeys(changes.keys))
                self._apply(dict(zip(keys, self._store.get(keys), strict=True)))
                self._seen = changes.last
                seen += len(changes.keys)

    def compare(self, reread: Callable[[Reread], None] = lambda reason: None) -> Agreement:
        """Prove by counts and fingerprints that this replica holds what the store holds, or read everything anew.

        Parameters
        ----------
        reread : as in `refresh`

        Raises
        ------
        StoreUnavailable : nothing was compared
        """
        for _ in range(COMPARE_ATTEMPTS):
            self.refresh(reread)
            with self._applying:
                totals = self._store.totals()
                if totals.head != self._seen:
                    continue
                if self._agrees(totals):
                    self._rereading_helps = True
                    return Agreement.SAME
                if not self._rereading_helps:
                    return Agreement.UNPROVEN
                self._read_anew()
                reread(Reread.DIFFERENT)
                # What changed while it was read arrives by the log; only an unchanged store can be said to be wrong.
                self._rereading_helps = self._agrees(totals) or self._store.head() != totals.head
                return Agreement.HEALED if self._rereading_helps else Agreement.UNPROVEN
        return Agreement.BUSY

    def _agrees(self, totals: Totals) -> bool:
        mine = (self._state.table.counts(), self._state.fingerprints.values())
        return mine == (totals.items, totals.fingerprints)

    def _read_anew(self) -> None:
        state = self._read_all()
        with self._lock.writing():
            self._state = state

    def _put_back(self) -> None:
        """Give the store what is here; what it knows itself, deletions included, it keeps as it is."""
        table = self._state.table
        ordinals, _ = table.rows()
        packed = self._layout.pack(table.values(ordinals))
        rising = np.argsort(packed)
        for first in range(0, len(rising), PUT_BACK_ITEMS):
            rows = rising[first : first + PUT_BACK_ITEMS]
            entries = map(table.entry, ordinals[rows].tolist())
            self._store.restore(
                [
                    StoredItem(entry.domain, entry.item_id, number, entry.title)
                    for entry, number in zip(entries, packed[rows].tolist(), strict=True)
                ]
            )
        if not self._store.seeded():
            self._store.finish_seed()

    def _read_all(self) -> _State:
        """Table and index of everything that is in the store; the change log is to be followed from before the call."""
        table, fingerprints = CatalogueTable(self._layout), Fingerprints()
        for batch in self._store.scan():
            table.add(batch)
            fingerprints.toggle_all((item.domain, item.item_id, item.packed) for item in batch)
        roots = {domain: number for number, domain in enumerate(table.domains())}
        ordinals, node_of = table.rows()
        values = table.values(ordinals)
        census = Census(self._layout)
        for domain, number in roots.items():
            census.add(domain, values[node_of == number])
        trie = CodeTrie.from_tokens(self._layout.tokens(values), node_of, ordinals, len(roots))
        return _State(table, trie, roots, census, fingerprints)

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
        fingerprints = self._state.fingerprints
        for key in gone:
            ordinal = table.ordinal(key)
            if ordinal is not None:
                values = table.values([ordinal])
                trie.delete(roots[key.domain], self._layout.tokens(values)[0])
                census.remove(key.domain, values)
                fingerprints.toggle(*key, int(self._layout.pack(values)[0]))
                table.remove(key)
        for ordinal, title in retitled:
            table.retitle(ordinal, title)
        rows = table.add(added)
        fingerprints.toggle_all((item.domain, item.item_id, item.packed) for item in added)
        values = table.values(rows)
        for domain in {item.domain for item in added}:
            census.add(domain, values[[item.domain == domain for item in added]])
        for item, ordinal, tokens in zip(added, rows, self._layout.tokens(values).tolist(), strict=True):
            if item.domain not in roots:
                roots[item.domain] = trie.add_root()
            trie.insert(roots[item.domain], tokens, leaf=ordinal)
