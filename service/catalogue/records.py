"""Input and output records of a catalogue store, as small frozen dataclasses.

Independent of how a store keeps them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.errors import ItemNotFound
from service.semantic_ids import TokenLayout

IntArray = NDArray[np.int32]

REFUSED = -1
"""Fill value for the row of a refused item."""

NO_ID = -1
"""Fill value for the row of a missing item."""


class ItemKey(NamedTuple):
    """What identifies an item outside the service."""

    domain: str
    item_id: str


NAMED_DOMAINS = 50
"""Maximum number of domains listed in one message."""


def with_items(domains: Collection[str]) -> str:
    """List the domains with items, for the error message about a domain without any."""
    names = sorted(domains)
    listed = ", ".join(names[:NAMED_DOMAINS]) + (", ..." if len(names) > NAMED_DOMAINS else "")
    return f"domains with items are {listed or '(none yet)'}"


def not_found(key: ItemKey, domains: Collection[str]) -> ItemNotFound:
    """The error for an item that a catalogue with items of these domains does not hold."""
    hint = "" if key.domain in domains else f"; {with_items(domains)}"
    return ItemNotFound(f"domain {key.domain!r} holds no item {key.item_id!r}{hint}")


@dataclass(frozen=True, slots=True)
class NewItem:
    """An item to register: its key, the tokenizer's output, and texts to store.

    Attributes
    ----------
    codes, experts : L codes and N expert numbers
    title : shown with recommendations
    content : the item's fields as a small JSON text, returned when the item is read
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
    live : False for a tombstone (deleted item with a reserved ID); only `CatalogueStore.rows` returns these
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
    """Result of registering a batch, row by row.

    Attributes
    ----------
    values : int32 [B, L + N + 1], the semantic ID that each item has now; a row of `REFUSED` if its group is full
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
    """A section of the change log.

    Attributes
    ----------
    keys : items that changed, oldest first, repeated if changed repeatedly
    last : sequence number to continue after
    gap : changes after the asked number are no longer in the log; reread the whole store and continue after `last`
    lost : a gap because the store was emptied or reverted; acknowledged changes may be missing
    """

    keys: tuple[ItemKey, ...]
    last: int
    gap: bool = False
    lost: bool = False


class Outcome(Enum):
    """Result of restoring an item with its ID."""

    THERE = "there"
    """The store already had it, live or deleted, with this ID; unchanged."""
    ADDED = "added"
    OTHER_ID = "other ID"
    """The store has the item with another ID; unchanged."""
    ID_GIVEN = "ID given"
    """The store has already allocated this ID, but not to this item; nothing was stored."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts and fingerprints of a store's live items, read atomically.

    Attributes
    ----------
    head : sequence number of the latest change at that moment
    items : domain -> number of live items, without empty domains
    fingerprints : domain -> fingerprint (`service.catalogue.fingerprint`), without those that are 0
    """

    head: int
    items: dict[str, int]
    fingerprints: dict[str, int]


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """Status report of a store.

    Attributes
    ----------
    where : address, never with a password
    items, fingerprints : of live items, by domain
    head, log_length : sequence number of the latest change, and how many changes the log holds
    bytes : memory (Redis, approximate) or file size (embedded) of the whole generation
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
    """An ID generation of a bundle in a store, with its packing of IDs; a `dropped` one is empty."""

    bundle: str
    number: int
    layout: TokenLayout
    dropped: bool = False
