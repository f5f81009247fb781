"""The live catalogue: table and constraint index in memory, in step with the store.

Registering goes through the store and is applied here before the call returns, so the item can be recommended from then
on. What other replicas change arrives by `refresh`, which reads the current state of every key that the change log
names, so it does not matter how often or in which order a change is seen.

A batch of searches runs on one view, which never changes; changes and searches do not wait for each other. Only a
deletion waits, before it returns, for the batches that began before it. Saved to a folder, the catalogue is there again
at the next start without reading the whole store.

A store that was emptied or set back behind our back is given what is here, with the IDs it was published under, before
anything is read from it again: what was recommendable stays so. Knows nothing of HTTP or of graphs.
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
from service.catalogue.putting_back import put_back
from service.catalogue.records import ItemKey, NewItem, Registered, StoredItem, Totals
from service.catalogue.store import CatalogueStore
from service.catalogue.table import CatalogueEntry
from service.catalogue.view import CatalogueView, Neighbour
from service.errors import InvalidInput, NotReady, StoreUnavailable
from service.semantic_ids import TokenLayout

FETCHED_KEYS = 1000
"""Keys whose state one refresh step reads."""

COMPARE_ATTEMPTS = 5
"""Times that a comparison waits for a moment without changes."""

MOST_SLACK = 0.5
"""Share of the index or the table that may hold nothing before `tidy` writes them anew."""

LEAST_TIDIED_BYTES = 1 << 20
"""Size below which slack does not matter."""


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


class LiveCatalogue:
    """One replica's view of a store.

    Every method may be called from any thread; inside a `searching` block nothing may be deleted.

    Parameters
    ----------
    store : its whole content is read here, unless what was saved is of this store and its log goes back far enough
    folder : where the catalogue is saved, None for nowhere

    Attributes
    ----------
    rebuilt : why what was saved could not be used, None where it could or where there is no folder
    """

    def __init__(self, store: CatalogueStore, folder: Path | None = None) -> None:
        self._store = store
        self._layout = store.layout
        self._saved = None if folder is None else SavedState(folder, store)
        # Held over the store's answer and its application, so that no older state is applied after a newer one.
        self._applying = threading.Lock()
        self._tidying = threading.Lock()
        self._readers = Readers()
        # What was applied since compaction began, to be applied to its result as well.
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

    def ids(self, keys: Sequence[ItemKey]) -> NDArray[np.int32]:
        """Published semantic IDs by key, int32 [n, L + N + 1], of `NO_ID` where there is no item; never waits."""
        return self._state.table.ids(keys)

    def get(self, keys: Sequence[ItemKey]) -> list[StoredItem | None]:
        """Items with their content, read from the store."""
        return self._store.get(keys)

    @contextmanager
    def searching(self) -> Iterator[CatalogueView]:
        """The catalogue as it is now, for as long as the block runs; never waits."""
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
        """Remove an item; it is recommended no more when the call returns. False where it was not there."""
        gone = threading.Event()
        deleted = self.remove(key, gone.set)
        gone.wait()
        return deleted

    def remove(self, key: ItemKey, gone: Callable[[], None]) -> bool:
        """As `delete`, without waiting for the batches that began before: searches that begin now do not find it.

        Parameters
        ----------
        gone : called when it is recommended no more, maybe before the call returns; see `Readers.after_earlier`

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
                    # An ID that another item has here: what is here is not of this store, or no longer.
                    if not self._read_anew(changes.last):
                        continue
                    self._seen, self._fresh_at = changes.last, asked_at
                    reread(Reread.DIFFERENT)
                    return seen + 1
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
                if not self._read_anew(self._seen):
                    continue
                reread(Reread.DIFFERENT)
                # What changed while it was read arrives by the log; only an unchanged store can be said to be wrong.
                self._rereading_helps = self._agrees(totals) or self._store.head() != totals.head
                return Agreement.HEALED if self._rereading_helps else Agreement.UNPROVEN
        return Agreement.BUSY

    def tidy(self, most_slack: float = MOST_SLACK) -> bool:
        """Write table and index anew if too much of them holds nothing; searches and changes go on meanwhile."""
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
                        return False  # Everything was read anew meanwhile.
                    for states in missed:
                        compacted.apply(states)
                    self._state, self._unsaved = compacted, True
            finally:
                self._missed = None
            return True

    def save(self) -> None:
        """Save what changed to the folder, if there is one and the store is complete; changes wait meanwhile.

        Raises
        ------
        ConfigError : the folder can be none
        """
        if self._saved is None or not self._unsaved:
            return
        with self._applying:
            try:
                if self._store.seeded() and not self._lost_since(self._seen):
                    self._unsaved = not self._saved.save(self._state, self._seen)
            except (StoreUnavailable, NotReady):
                return  # What was saved before is still good: the log goes on from there.

    def _agrees(self, totals: Totals) -> bool:
        mine = (self._state.table.counts(), self._state.fingerprints.values())
        return mine == (totals.items, totals.fingerprints)

    def _read_anew(self, seen: int) -> bool:
        """Replace what is here by what the store holds; False, and nothing is replaced, where it lost that meanwhile.

        Parameters
        ----------
        seen : number of a change that it had told of before
        """
        state = self._read_all()
        if self._lost_since(seen):
            return False
        self._state, self._unsaved = state, True
        return True

    def _require_found(self) -> None:
        """Refuse a change while the store lacks what is here: it might give an ID that somebody has already."""
        if self._lost:
            raise StoreUnavailable("the catalogue store was emptied or set back; what it lacks is put back first")

    def _lost_since(self, seen: int) -> bool:
        """Whether the store was emptied or set back since it told of a change: what it lacks was not deleted then."""
        lost = self._store.changes(seen, 1).lost
        self._lost = self._lost or lost
        return lost

    def _read_all(self) -> LiveState:
        """Everything that is in the store; the change log is to be followed from before the call."""
        return LiveState.read(self._layout, self._store.columns())

    def _apply(self, states: Mapping[ItemKey, StoredItem | None]) -> bool:
        missed = self._missed
        if missed is not None:
            missed.append(states)
        changed = self._state.apply(states)
        self._unsaved |= changed
        return changed
