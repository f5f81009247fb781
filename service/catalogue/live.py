"""The live catalogue: table and constraint index in memory, in step with the store.

Registering goes through the store and is applied here before the call returns, so the item can be recommended from then
on. Changes by other replicas arrive through `refresh`, which reads the current state of every key in the change log.
Applying changes is therefore idempotent and independent of their order.

A batch of searches runs on one immutable view; changes and searches do not block each other. Only a deletion waits,
before it returns, for the batches that began before it. A catalogue saved to a folder is loaded from there at the next
start, without reading the whole store.

If the store was emptied or reverted to an older state from outside, this replica first restores its own items to it,
under their published IDs. So items stay recommendable. Independent of HTTP and graphs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.catalogue.census import Census
from service.catalogue.live_saving import SavedState
from service.catalogue.live_state import LiveState
from service.catalogue.locking import Readers
from service.catalogue.records import ItemKey, NewItem, Registered, StoredItem, Totals
from service.catalogue.restoring import put_back
from service.catalogue.store import CatalogueStore
from service.catalogue.table import CatalogueEntry
from service.catalogue.view import CatalogueView, Neighbour
from service.errors import InvalidInput, NotReady, StoreUnavailable
from service.semantic_ids import TokenLayout

FETCHED_KEYS = 1000
"""Maximum number of keys read per refresh step."""

COMPARE_ATTEMPTS = 5
"""Attempts of a comparison to find a moment without changes."""

MOST_SLACK = 0.5
"""Unused share of the index or the table above which `tidy` compacts them."""

LEAST_TIDIED_BYTES = 1 << 20
"""Total size below which `tidy` does not compact."""


class Reread(StrEnum):
    """Why the whole store was reread."""

    BEHIND = "behind"
    """The log no longer held all changes since the last refresh."""
    LOST = "lost"
    """The store was emptied or reverted to an older state; its missing items were restored first."""
    DIFFERENT = "different"
    """The fingerprints differed, or an ID belonged to another item here."""


class Agreement(StrEnum):
    """Result of comparing the live catalogue with the store's counts and fingerprints."""

    SAME = "same"
    BUSY = "busy"
    """The store changed during every attempt, so nothing could be compared."""
    HEALED = "healed"
    """They differed; rereading the whole store fixed it."""
    UNPROVEN = "unproven"
    """They still differ after a reread: the counts or fingerprints kept by the store are wrong."""


class LiveCatalogue:
    """One replica's view of a store.

    Every method may be called from any thread; inside a `searching` block nothing may be deleted.

    Parameters
    ----------
    store : read completely, unless the saved state belongs to it and its change log reaches back far enough
    folder : where the catalogue is saved; None disables saving

    Attributes
    ----------
    rebuilt : why the saved state could not be used; None if it was used or there is no folder
    """

    def __init__(self, store: CatalogueStore, folder: Path | None = None) -> None:
        self._store = store
        self._layout = store.layout
        self._saved = None if folder is None else SavedState(folder, store)
        # Held from reading the store until the result is applied, so that no older state is applied after a newer one.
        self._applying = threading.Lock()
        self._tidying = threading.Lock()
        self._readers = Readers()
        # Changes applied since compaction began; they are also applied to its result.
        self._missed: list[Mapping[ItemKey, StoredItem | None]] | None = None
        self._unsaved = True
        self._fresh_at = time.monotonic()
        self._lost = False
        self._rereading_helps = True
        loaded = None if self._saved is None else self._saved.load()
        self.rebuilt = None if self._saved is None else self._saved.rebuilt
        if loaded is None:
            self._seen = store.head()
            self._state = self._read_all()
            if self._lost_since(self._seen):
                raise StoreUnavailable("the catalogue store was emptied while it was read; start again")
            self.save()
        else:
            self._state, self._seen = loaded
            self._unsaved = False
            self.refresh()

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
        """Seconds since this replica was last up to date with the store."""
        return time.monotonic() - self._fresh_at

    def census(self) -> Census:
        """How the catalogue uses its token space, kept up with every change."""
        return self._state.census

    def domains(self) -> dict[str, int]:
        """Number of live items of each non-empty domain."""
        return self._state.table.counts()

    def lookup(self, keys: Sequence[ItemKey]) -> list[CatalogueEntry | None]:
        """Look up items by key, None for a missing one; never blocks."""
        return self._state.table.entries(keys)

    def ids(self, keys: Sequence[ItemKey]) -> NDArray[np.int32]:
        """Published semantic IDs by key, int32 [n, L + N + 1], `NO_ID` where there is no item; never blocks."""
        return self._state.table.ids(keys)

    def get(self, keys: Sequence[ItemKey]) -> list[StoredItem | None]:
        """Items with their content, read from the store."""
        return self._store.get(keys)

    @contextmanager
    def searching(self) -> Iterator[CatalogueView]:
        """Snapshot of the catalogue for the duration of the block; never blocks."""
        with self._readers.reading():
            yield self._state.view

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
            self._require_found()
            registered = self._store.register(items)
            kept = np.flatnonzero(~registered.refused)
            packed = self._layout.pack(registered.values[kept])
            states = {
                ItemKey(items[row].domain, items[row].item_id): StoredItem(
                    items[row].domain, items[row].item_id, number, items[row].title
                )
                for row, number in zip(kept.tolist(), packed.tolist(), strict=True)
            }
            try:
                self._apply(states)
            except InvalidInput as error:
                raise StoreUnavailable(
                    "the catalogue store gave a semantic ID that another item has here, so it has lost what it held; "
                    "see `unitok catalogue verify`, and whether its server removes keys to make room"
                ) from error
        return registered

    def delete(self, key: ItemKey) -> bool:
        """Remove an item; it is no longer recommended when the call returns. False if it did not exist."""
        gone = threading.Event()
        deleted = self.remove(key, gone.set)
        gone.wait()
        return deleted

    def remove(self, key: ItemKey, gone: Callable[[], None]) -> bool:
        """Like `delete`, but does not wait for earlier batches; later searches do not find the item.

        Parameters
        ----------
        gone : called once the item is no longer recommended, maybe before the call returns; see `Readers.after_earlier`

        Raises
        ------
        NotReady, StoreUnavailable : nothing was removed, and `gone` is not called (see `CatalogueStore.delete`)
        """
        with self._applying:
            self._require_found()
            deleted = self._store.delete(key)
            changed = self._apply({key: None})
        if changed:
            self._readers.after_earlier(gone)
        else:
            gone()
        return deleted

    def refresh(self, reread: Callable[[Reread], None] = lambda reason: None) -> int:
        """Apply what changed in the store since the last call; returns the number of changes seen.

        A replica that fell behind the log rereads the whole store and swaps it in atomically, counted as one change.

        Parameters
        ----------
        reread : called with the reason if the whole store was reread

        Raises
        ------
        StoreUnavailable : some changes may have been applied; the next call goes on from there
        """
        seen = 0
        while True:
            asked_at = time.monotonic()
            with self._applying:
                changes = self._store.changes(self._seen, FETCHED_KEYS)
                # Remembered, because the store reports a loss only once and restoring may fail.
                self._lost = self._lost or changes.lost
                if changes.gap or self._lost:
                    reason = Reread.LOST if self._lost else Reread.BEHIND
                    if self._lost:
                        put_back(self._store, self._state)
                    if not self._read_anew(changes.last):
                        continue
                    self._seen, self._lost, self._fresh_at = changes.last, False, asked_at
                    reread(reason)
                    return seen + 1
                if not changes.keys:
                    self._fresh_at = asked_at
                    return seen
                keys = list(dict.fromkeys(changes.keys))
                states = dict(zip(keys, self._store.get(keys), strict=True))
                if self._lost_since(changes.last):
                    continue
                try:
                    self._apply(states)
                except InvalidInput:
                    # The ID belongs to another item here, so the state in memory no longer matches this store.
                    if not self._read_anew(changes.last):
                        continue
                    self._seen, self._fresh_at = changes.last, asked_at
                    reread(Reread.DIFFERENT)
                    return seen + 1
                self._seen = changes.last
                seen += len(changes.keys)

    def compare(self, reread: Callable[[Reread], None] = lambda reason: None) -> Agreement:
        """Check by counts and fingerprints that this replica equals the store; reread the whole store if not.

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
                if not self._read_anew(self._seen):
                    continue
                reread(Reread.DIFFERENT)
                # Changes made during the reread arrive through the log; only an unchanged store can be proven wrong.
                self._rereading_helps = self._agrees(totals) or self._store.head() != totals.head
                return Agreement.HEALED if self._rereading_helps else Agreement.UNPROVEN
        return Agreement.BUSY

    def tidy(self, most_slack: float = MOST_SLACK) -> bool:
        """Compact table and index if their slack exceeds a limit; searches and changes continue meanwhile."""
        with self._tidying:
            state = self._state
            if state.slack() <= most_slack or sum(state.nbytes().values()) < LEAST_TIDIED_BYTES:
                return False
            missed: list[Mapping[ItemKey, StoredItem | None]] = []
            try:
                with self._applying:
                    self._missed = missed
                    frozen = state.frozen()
                compacted = state.compacted(frozen)
                with self._applying:
                    if self._state is not state:
                        return False  # The whole store was reread meanwhile.
                    for states in missed:
                        compacted.apply(states)
                    self._state, self._unsaved = compacted, True
            finally:
                self._missed = None
            return True

    def save(self) -> None:
        """Save unsaved changes to the folder, if there is one and the store is complete; blocks changes meanwhile.

        Raises
        ------
        ConfigError : the folder is unusable
        """
        if self._saved is None or not self._unsaved:
            return
        with self._applying:
            try:
                if self._store.seeded() and not self._lost_since(self._seen):
                    self._unsaved = not self._saved.save(self._state, self._seen)
            except (StoreUnavailable, NotReady):
                return  # The previous saved state stays valid: the log continues from there.

    def _agrees(self, totals: Totals) -> bool:
        mine = (self._state.table.counts(), self._state.fingerprints.values())
        return mine == (totals.items, totals.fingerprints)

    def _read_anew(self, seen: int) -> bool:
        """Reread the whole store; returns False and replaces nothing if the store lost data meanwhile.

        Parameters
        ----------
        seen : number of a change that the store had reported before
        """
        state = self._read_all()
        if self._lost_since(seen):
            return False
        self._state, self._unsaved = state, True
        return True

    def _require_found(self) -> None:
        """Refuse changes while the store lacks items held here: it might allocate an ID that is already taken."""
        if self._lost:
            raise StoreUnavailable("the catalogue store was emptied or set back; what it lacks is put back first")

    def _lost_since(self, seen: int) -> bool:
        """Whether the store was emptied or reverted since it reported a change; missing items were then not deleted."""
        lost = self._store.changes(seen, 1).lost
        self._lost = self._lost or lost
        return lost

    def _read_all(self) -> LiveState:
        """Read the whole store; the change log must be followed from its position before the call."""
        return LiveState.read(self._layout, self._store.columns())

    def _apply(self, states: Mapping[ItemKey, StoredItem | None]) -> bool:
        missed = self._missed
        if missed is not None:
            missed.append(states)
        changed = self._state.apply(states)
        self._unsaved |= changed
        return changed
