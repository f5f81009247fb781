"""What goes into a catalogue store and what comes out of it, as small frozen records.

Knows nothing of how a store keeps them.
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
"""Every value of the row of an item that was refused."""

NO_ID = -1
"""Every value of the row of an item that is not there."""


class ItemKey(NamedTuple):
    """What identifies an item outside the service."""

    domain: str
    item_id: str


NAMED_DOMAINS = 50
"""Domains that one message names."""


def with_items(domains: Collection[str]) -> str:
    """Say which domains hold items, for a message to who names one that does not."""
    names = sorted(domains)
    listed = ", ".join(names[:NAMED_DOMAINS]) + (", ..." if len(names) > NAMED_DOMAINS else "")
    return f"domains with items are {listed or '(none yet)'}"


def not_found(key: ItemKey, domains: Collection[str]) -> ItemNotFound:
    """The error for an item that a catalogue with items of these domains does not hold."""
    hint = "" if key.domain in domains else f"; {with_items(domains)}"
    return ItemNotFound(f"domain {key.domain!r} holds no item {key.item_id!r}{hint}")


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
