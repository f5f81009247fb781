"""The interface of a catalogue store: the durable table item <-> semantic ID of one ID generation.

Guarantees of every store:

- An item keeps its first ID, whatever its codes are later, and an ID is never given to another item. A deleted item
  leaves a tombstone that keeps its ID; registered again, it gets that ID back.
- Items of one domain with equal codes and experts get the suffixes 0, 1, 2, ... atomically per batch,
  also across replicas. A group that has used up `layout.suffixes` refuses further items; the rest of the batch is
  stored.
- Acknowledged changes survive `kill -9` of the caller and of the store.
- Nothing is registered or deleted before the bundle's own catalogue is stored (`seed`, `finish_seed`), so that no new
  item takes an ID of a bundle item.
- Every change gets the next sequence number in a log of keys. A replica reads the current state of those keys, so
  following the log converges in any order. The log keeps the last `CHANGES_KEPT` changes.
- Counts and fingerprints of the live items are updated atomically with each change, so that a replica can prove that
  it holds the same.

Independent of tries, HTTP and how IDs are computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from service.catalogue.columns import ItemColumns
from service.catalogue.records import Changes, ItemKey, NewItem, Outcome, Registered, StoredItem, StoreStatus, Totals
from service.semantic_ids import TokenLayout

CHANGES_KEPT = 100_000
"""Number of changes in the log; a replica further behind rereads the whole store."""


class CatalogueStore(Protocol):
    """One ID generation of one bundle in durable storage; every method may be called from any thread.

    Every method raises `StoreUnavailable` if the storage does not answer; nothing was acknowledged then, and the call
    can be repeated safely.
    """

    @property
    def layout(self) -> TokenLayout:
        """How semantic IDs are packed."""

    def seed(self, items: Sequence[StoredItem]) -> None:
        """Store items of the bundle's catalogue with their IDs; idempotent, and does nothing after `finish_seed`."""

    def finish_seed(self) -> None:
        """Mark the bundle's catalogue as complete, which enables `register` and `delete`."""

    def seeded(self) -> bool:
        """Whether `finish_seed` was called."""

    def register(self, items: Sequence[NewItem]) -> Registered:
        """Store items and allocate their suffixes atomically; existing items get the new title and content.

        Raises
        ------
        NotReady : the bundle's catalogue is not complete
        InvalidInput : a key, a code or an expert is out of range, or there are too many domains; nothing was stored
        """

    def delete(self, key: ItemKey) -> bool:
        """Remove an item and keep its ID reserved (tombstone); False if it was not live.

        Raises
        ------
        NotReady : the bundle's catalogue is not complete
        """

    def get(self, keys: Sequence[ItemKey]) -> list[StoredItem | None]:
        """Live items in the order of `keys`, None for a missing one."""

    def scan(self) -> Iterator[list[StoredItem]]:
        """All live items in batches, unordered, without `content`; concurrent changes may be missed or seen."""

    def columns(self) -> Iterator[ItemColumns]:
        """The items of `scan`, as columns, for reading millions of items."""

    def rows(self) -> Iterator[list[StoredItem]]:
        """All items in batches, unordered, with deleted ones and contents; concurrent changes may be missed or seen."""

    def restore(self, items: Sequence[StoredItem], dry: bool = False) -> list[Outcome]:
        """Restore items with their published IDs, from a backup or a replica; returns one outcome per item, in order.

        Never changes an existing item. Within a group IDs must be in ascending order, since a new ID must be greater
        than all that the group has allocated. Also allowed before `finish_seed`. `dry` only returns the outcomes.

        Raises
        ------
        InvalidInput : a name or a text is invalid; nothing was stored
        """

    def suffixes_used(self) -> Iterator[list[tuple[str, int, int]]] | None:
        """The suffix counters in batches: domain, ID with suffix 0, suffixes allocated; None if it stores none."""

    def totals(self) -> Totals:
        """Head, counts and fingerprints, read atomically."""

    def mend(self, totals: Totals, suffixes_used: Sequence[tuple[str, int, int]]) -> bool:
        """Correct stored counts and fingerprints, raise suffix counters; False, and no change, if not at `head`.

        Counters are never lowered.
        """

    def head(self) -> int:
        """Sequence number of the latest change, 0 before the first."""

    def changes(self, after: int, limit: int = 10_000) -> Changes:
        """At most `limit` changes after a sequence number."""

    def checkpoint(self, name: str) -> str | None:
        """The value stored by `save_checkpoint` under a name."""

    def save_checkpoint(self, name: str, value: str) -> None:
        """Store a small text durably, for work that can resume."""

    def drop(self) -> None:
        """Permanently remove all items; the generation can never be opened again, so that no ID is given twice.

        Can be repeated after a failure. Clients that have it open get `NotReady`.
        """

    def status(self) -> StoreStatus:
        """Counts and state, for display."""

    def close(self) -> None:
        """Close connections; the store must not be used afterwards."""
