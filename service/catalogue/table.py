"""The live catalogue's items in memory: columns by ordinal, and a dictionary a domain from item_id to ordinal.

An *ordinal* is an item's row, and the leaf that the constraint index leads to. It is never used again after its item
was deleted, so a stale one can only find nothing. Looking up is safe while another thread changes the table; changes
must be made by one thread at a time. Knows nothing of tries or stores.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.catalogue.store import ItemKey, StoredItem
from service.semantic_ids import TokenLayout

IntArray = NDArray[np.int32]

SMALLEST = 1024


@dataclass(frozen=True, slots=True, eq=False)
class CatalogueEntry:
    """A live item as the service uses it; `values` is its semantic ID, int32 [L + N + 1]."""

    ordinal: int
    domain: str
    item_id: str
    title: str | None
    values: IntArray


class CatalogueTable:
    """Rows of items, looked up by key or by ordinal."""

    def __init__(self, layout: TokenLayout) -> None:
        self._layout = layout
        self._packed = np.zeros(SMALLEST, dtype=np.uint64)
        self._domain_of: list[str] = []
        self._item_ids: list[str | None] = []
        self._titles: list[str | None] = []
        self._ordinals: dict[str, dict[str, int]] = {}

    def domains(self) -> list[str]:
        """All domains that ever held an item, in the order in which they came."""
        return list(self._ordinals)

    def counts(self) -> dict[str, int]:
        """Live items of each domain that has any."""
        return {domain: len(ordinals) for domain, ordinals in list(self._ordinals.items()) if ordinals}

    def ordinal(self, key: ItemKey) -> int | None:
        """Row of a live item."""
        return self._ordinals.get(key.domain, {}).get(key.item_id)

    @property
    def next_ordinal(self) -> int:
        """Row that the next item will get."""
        return len(self._item_ids)

    def holds(self, key: ItemKey, item: StoredItem | None) -> bool:
        """Whether the table says of a key what a store says of it."""
        ordinal = self.ordinal(key)
        if ordinal is None or item is None:
            return ordinal is None and item is None
        return bool(self._packed[ordinal] == item.packed) and self._titles[ordinal] == item.title

    def columns(self) -> tuple[IntArray, NDArray[np.uint64], IntArray]:
        """All live items: domain int32 [n] as a place in `domains`, packed ID uint64 [n], ordinal int32 [n]."""
        ordinals = np.array([row for row, item_id in enumerate(self._item_ids) if item_id is not None], dtype=np.int32)
        numbers = {domain: number for number, domain in enumerate(self._ordinals)}
        domains = np.array([numbers[self._domain_of[row]] for row in ordinals.tolist()], dtype=np.int32)
        return domains, self._packed[ordinals], ordinals

    def packed(self, ordinals: Sequence[int] | IntArray) -> NDArray[np.uint64]:
        """Packed semantic IDs, uint64 [n]."""
        return self._packed[np.asarray(ordinals, dtype=np.int64)]

    def entries(self, keys: Sequence[ItemKey]) -> list[CatalogueEntry | None]:
        """Live items in the order asked for, None where there is none."""
        ordinals = [self.ordinal(key) for key in keys]
        found = [ordinal for ordinal in ordinals if ordinal is not None]
        values = iter(self._layout.unpack(self.packed(found)))
        return [
            None if ordinal is None else CatalogueEntry(ordinal, *key, self._titles[ordinal], next(values))
            for key, ordinal in zip(keys, ordinals, strict=True)
        ]

    def entry(self, ordinal: int) -> CatalogueEntry:
        """The live item of a row."""
        item_id = self._item_ids[ordinal]
        if item_id is None:
            raise KeyError(f"row {ordinal} holds no live item")
        values = self._layout.unpack(self.packed([ordinal]))[0]
        return CatalogueEntry(ordinal, self._domain_of[ordinal], item_id, self._titles[ordinal], values)

    def add(self, item: StoredItem) -> int:
        """Give an item a row; it must not have one."""
        ordinal = self.next_ordinal
        if ordinal == len(self._packed):
            self._packed = np.concatenate([self._packed, np.zeros(len(self._packed), dtype=np.uint64)])
        self._packed[ordinal] = item.packed
        # One string object a domain, not one an item.
        self._domain_of.append(sys.intern(item.domain))
        self._titles.append(item.title)
        self._item_ids.append(item.item_id)
        self._ordinals.setdefault(item.domain, {})[item.item_id] = ordinal
        return ordinal

    def retitle(self, ordinal: int, title: str | None) -> None:
        """Change what is shown of an item."""
        self._titles[ordinal] = title

    def remove(self, key: ItemKey) -> None:
        """Take an item's row out of use."""
        ordinal = self._ordinals[key.domain].pop(key.item_id)
        self._item_ids[ordinal] = None
        self._titles[ordinal] = None
