"""The interface of a catalogue store: the durable table item <-> semantic ID of one ID generation.

What every store promises:

- An item keeps the ID it first got, whatever its codes are later, and an ID is never given to another item. A deleted
  item leaves a tombstone that holds its ID; registered again, it gets that ID back.
- Items of one domain with equal codes and experts get the suffixes 0, 1, 2, ... in one atomic step for a batch,
  whichever replica asks. A group that has used up `layout.suffixes` refuses further items; the rest of the batch is
  stored.
- What was acknowledged survives `kill -9` of the caller and of the store.
- Nothing is registered or deleted before the bundle's own catalogue is in (`seed`, `finish_seed`), so that nobody takes
  an ID that the bundle gives to one of its items.
- Every change gets the next sequence number in a log of keys. A replica reads the current state of those keys, so
  following the log converges whatever the order. The log keeps the last `CHANGES_KEPT` changes.
- Counts and fingerprints of the live items are kept by the store in the same step as each change, so that a replica can
  prove that it holds the same.

Knows nothing of tries, HTTP or how IDs are computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from service.catalogue.columns import ItemColumns
from service.catalogue.records import Changes, ItemKey, NewItem, Outcome, Registered, StoredItem, StoreStatus, Totals
from service.semantic_ids import TokenLayout

CHANGES_KEPT = 100_000
"""How many changes the log holds; a replica further behind reads everything anew."""


class CatalogueStore(Protocol):
    """One ID generation of one bundle in a durable place; every method may be called from any thread.

    Every method raises `StoreUnavailable` when the place does not answer; nothing was acknowledged then, and the call
    may be repeated safely.
    """

    @property
    def layout(self) -> TokenLayout:
        """How semantic IDs are packed."""

    def seed(self, items: Sequence[StoredItem]) -> None:
        """Store items of the bundle's catalogue with the IDs they have; may be repeated, does nothing once finished."""

    def finish_seed(self) -> None:
        """Mark the bundle's catalogue as complete, which opens the store for `register` and `delete`."""

    def seeded(self) -> bool:
        """Whether `finish_seed` was called."""

    def register(self, items: Sequence[NewItem]) -> Registered:
        """Store items and allot their suffixes, all in one step; an item that is there gets its new title and content.

        Raises
        ------
        NotReady : the bundle's catalogue is not complete
        InvalidInput : a key, a code or an expert is out of range, or a domain is one too many; nothing was stored
        """

    def delete(self, key: ItemKey) -> bool:
        """Remove an item, keeping its ID reserved; False where it was not live.

        Raises
        ------
        NotReady : the bundle's catalogue is not complete
        """

    def get(self, keys: Sequence[ItemKey]) -> list[StoredItem | None]:
        """Live items in the order asked for, None where there is none."""

    def scan(self) -> Iterator[list[StoredItem]]:
        """All live items in batches, in no order, their `content` left out; changes meanwhile may be missed or seen."""

    def columns(self) -> Iterator[ItemColumns]:
        """What `scan` gives, as columns: for whoever reads millions."""

    def rows(self) -> Iterator[list[StoredItem]]:
        """All items in batches, in no order: deleted ones and contents too; changes meanwhile may be missed or seen."""

    def restore(self, items: Sequence[StoredItem], dry: bool = False) -> list[Outcome]:
        """Put items back that were published elsewhere: a backup, a replica's memory; each item's outcome, in order.

        Never changes an item that is there. Within a group IDs must come in rising order, since the ID of a new item
        has to lie above all that the group has given away. Allowed before `finish_seed`, too. `dry` only says what
        would become of each.

        Raises
        ------
        InvalidInput : a name or a text is none; nothing was stored
        """

    def suffixes_used(self) -> Iterator[list[tuple[str, int, int]]] | None:
        """The suffix counters in batches: domain, ID with suffix 0, suffixes given away; None where it keeps none."""

    def totals(self) -> Totals:
        """Head, counts and fingerprints of one moment."""

    def mend(self, totals: Totals, suffixes_used: Sequence[tuple[str, int, int]]) -> bool:
        """Set the kept counts and fingerprints right and raise suffix counters; False, and no change, if not at `head`.

        Counters are never lowered.
        """

    def head(self) -> int:
        """Sequence number of the latest change, 0 before the first."""

    def changes(self, after: int, limit: int = 10_000) -> Changes:
        """At most `limit` changes after a sequence number."""

    def checkpoint(self, name: str) -> str | None:
        """What `save_checkpoint` kept under a name."""

    def save_checkpoint(self, name: str, value: str) -> None:
        """Keep a small text, durably, for work that resumes."""

    def drop(self) -> None:
        """Remove all items for good; the generation can never be opened again, so that no ID is given a second time.

        May be repeated after a failure. Whoever has it open finds it not ready.
        """

    def status(self) -> StoreStatus:
        """Counts and state, for people."""

    def close(self) -> None:
        """Give up connections; the store must not be used afterwards."""
