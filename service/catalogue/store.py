"""The interface of a catalogue store and its records: the durable table item <-> semantic ID of one ID generation.

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
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidInput
from service.semantic_ids import TokenLayout

if TYPE_CHECKING:
    from service.catalogue.columns import ItemColumns

IntArray = NDArray[np.int32]

CHANGES_KEPT = 100_000
"""How many changes the log holds; a replica further behind reads everything anew."""

MAX_NAME_BYTES = 512
"""Longest domain name and item_id, in UTF-8."""

REFUSED = -1
"""Every value of the row of an item that was refused."""


class ItemKey(NamedTuple):
    """What identifies an item outside the service."""

    domain: str
    item_id: str


@dataclass(frozen=True, slots=True)
class NewItem:
    """An item to register: its key, what the tokenizer says of it, and what to remember.

    Attributes
    ----------
    codes, experts : L codes and N expert numbers
    title : shown with recommendations
    content : the item's fields as a small JSON text, kept for whoever reads the item back
    """

    domain: str
    item_id: str
    codes: tuple[int, ...]
    experts: tuple[int, ...]
    title: str | None = None
    content: str | None = None


@dataclass(frozen=True, slots=True)
class StoredItem:
    """An item as the store holds it.

    Attributes
    ----------
    packed : its semantic ID (`TokenLayout.pack`)
    live : False for a deleted item, whose ID stays its own; such items come out of `CatalogueStore.rows` alone
    """

    domain: str
    item_id: str
    packed: int
    title: str | None = None
    content: str | None = None
    live: bool = True

    @property
    def key(self) -> ItemKey:
        """Domain and item_id."""
        return ItemKey(self.domain, self.item_id)


@dataclass(frozen=True, slots=True)
class Registered:
    """What became of a batch, row by row.

    Attributes
    ----------
    values : int32 [B, L + N + 1], the semantic ID that each item has now; a row of `REFUSED` where its group is full
    created : bool [B], the item was not live before
    """

    values: IntArray
    created: NDArray[np.bool_]

    @property
    def refused(self) -> NDArray[np.bool_]:
        """bool [B], items that were not stored because every suffix of their group is taken."""
        return np.asarray(self.values[:, 0] == REFUSED)


@dataclass(frozen=True, slots=True)
class Changes:
    """A piece of the change log.

    Attributes
    ----------
    keys : items that changed, oldest first, repeated where they changed repeatedly
    last : sequence number to go on after
    gap : changes after the asked number are no longer in the log; read everything anew and go on after `last`
    lost : a gap because the store was emptied or set back: it may lack what it had acknowledged
    """

    keys: tuple[ItemKey, ...]
    last: int
    gap: bool = False
    lost: bool = False


class Outcome(Enum):
    """What became of an item that was to be put back with the ID it has."""

    THERE = "there"
    """The store knew it, live or deleted, with this ID; it was left as it is."""
    ADDED = "added"
    OTHER_ID = "other ID"
    """The store knows the item with another ID; it was left as it is."""
    ID_GIVEN = "ID given"
    """The store has given this ID away before, and not to this item; nothing was stored."""


@dataclass(frozen=True, slots=True)
class Totals:
    """What a store keeps of its live items besides the items, all of one moment.

    Attributes
    ----------
    head : sequence number of the latest change then
    items : domain -> live items, domains without any left out
    fingerprints : domain -> fingerprint (`service.catalogue.fingerprint`), those of 0 left out
    """

    head: int
    items: dict[str, int]
    fingerprints: dict[str, int]


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """What a store says of itself.

    Attributes
    ----------
    where : never holds a password
    items, fingerprints : of live items, by domain
    head, log_length : sequence number of the latest change, and how many changes the log holds
    bytes : memory (Redis, about) or file size (embedded) of the whole generation
    """

    kind: str
    where: str
    generation: str
    seeded: bool
    items: dict[str, int]
    fingerprints: dict[str, int]
    head: int
    log_length: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Generation:
    """One ID generation of one bundle that a place holds, and how its IDs are packed; a `dropped` one is empty."""

    bundle: str
    number: int
    layout: TokenLayout
    dropped: bool = False


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
        InvalidInput : a key, a code or an expert is out of range; nothing was stored
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


def base_ids(items: Sequence[NewItem], layout: TokenLayout) -> NDArray[np.uint64]:
    """Packed IDs with suffix 0, uint64 [B]: the suffix fills the lowest bits, so `base + suffix` is an item's ID.

    Raises
    ------
    InvalidInput : a key, a code or an expert is not one
    """
    for row, item in enumerate(items):
        check_key(item.domain, item.item_id, row)
        _utf8_size(item.title or "", "title", row)
        _utf8_size(item.content or "", "content", row)
        if len(item.codes) != layout.levels or len(item.experts) != layout.experts_per_item:
            raise InvalidInput(
                f"item {row} ({item.item_id!r}) has {len(item.codes)} codes and {len(item.experts)} experts, "
                f"but the bundle has {layout.levels} and {layout.experts_per_item}"
            )
    rows = [(*item.codes, *item.experts, 0) for item in items]
    return layout.pack(np.asarray(rows, dtype=np.int32).reshape(-1, layout.depth))


def check_items(items: Sequence[StoredItem]) -> None:
    """Refuse names and texts that a store cannot hold, as `base_ids` does for new items."""
    for row, item in enumerate(items):
        check_key(item.domain, item.item_id, row)
        _utf8_size(item.title or "", "title", row)
        _utf8_size(item.content or "", "content", row)


def is_whole(after: int, head: int, sequences: Sequence[int], limit: int) -> bool:
    """Whether the sequence numbers found in a log, rising, are all from `after` to `head`, `limit` of them at most."""
    expected = min(head - after, limit)
    return expected == len(sequences) and (not expected or sequences[-1] == after + expected)


def dropped_text(where: str, generation: str) -> str:
    """Why a generation cannot be opened."""
    return (
        f"{where}: {generation} was dropped, and its IDs may still be known elsewhere; give the bundle a new generation"
    )


def layout_of_ids(layout: TokenLayout) -> dict[str, int]:
    """The part of a layout that a packed ID depends on; a store keeps it and refuses to open with another."""
    names = ("levels", "codes", "experts", "experts_per_item", "suffixes")
    return {name: getattr(layout, name) for name in names}


def check_key(domain: str, item_id: str, row: int) -> None:
    """Refuse names that a store cannot hold.

    Raises
    ------
    InvalidInput : empty, longer than `MAX_NAME_BYTES`, or not to be written as UTF-8
    """
    for field, text in (("domain", domain), ("item_id", item_id)):
        size = _utf8_size(text, field, row)
        if not 1 <= size <= MAX_NAME_BYTES:
            raise InvalidInput(f"item {row}: {field} has {size} bytes, but 1 to {MAX_NAME_BYTES} are allowed")


def _utf8_size(text: str, field: str, row: int) -> int:
    try:
        return len(text.encode("utf-8"))
    except UnicodeEncodeError:
        raise InvalidInput(f"item {row}: {field} {text!r} holds half a surrogate pair, which is no text") from None
