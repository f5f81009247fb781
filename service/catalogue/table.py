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
        # Unpacked as well: every search result and every item of a history asks for its values.
        self._values = np.zeros((SMALLEST, layout.depth), dtype=np.int32)
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

    def has_id(self, ordinal: int, packed: int) -> bool:
        """Whether a row's semantic ID is this one."""
        return int(self._packed[ordinal]) == packed

    def title(self, ordinal: int) -> str | None:
        """What is shown of a row's item."""
        return self._titles[ordinal]

    def values(self, ordinals: Sequence[int] | IntArray) -> IntArray:
        """Semantic IDs of rows, int32 [n, L + N + 1]."""
        return self._values[np.asarray(ordinals, dtype=np.int64)]

    def rows(self) -> tuple[IntArray, IntArray]:
        """All live items: ordinal int32 [n], and domain int32 [n] as a place in `domains`."""
        ordinals = np.array([row for row, item_id in enumerate(self._item_ids) if item_id is not None], dtype=np.int32)
        numbers = {domain: number for number, domain in enumerate(self._ordinals)}
        return ordinals, np.array([numbers[self._domain_of[row]] for row in ordinals.tolist()], dtype=np.int32)

    def entries(self, keys: Sequence[ItemKey]) -> list[CatalogueEntry | None]:
        """Live items in the order asked for, None where there is none."""
        ordinals = map(self.ordinal, keys)
        return [
            None if ordinal is None else CatalogueEntry(ordinal, *key, self._titles[ordinal], self._values[ordinal])
            for key, ordinal in zip(keys, ordinals, strict=True)
        ]

    def entry(self, ordinal: int) -> CatalogueEntry:
        """The live item of a row."""
        item_id = self._item_ids[ordinal]
        if item_id is None:
            raise KeyError(f"row {ordinal} holds no live item")
        domain = self._domain_of[ordinal]
        return CatalogueEntry(ordinal, domain, item_id, self._titles[ordinal], self._values[ordinal])

    def add(self, items: Sequence[StoredItem]) -> range:
        """Give items rows; none may have one. Returns the rows."""
        first, packed = len(self._item_ids), np.array([item.packed for item in items], dtype=np.uint64)
        end = first + len(items)
        if end > len(self._packed):
            room = max(end, 2 * len(self._packed)) - len(self._packed)
            self._packed = np.concatenate([self._packed, np.zeros(room, dtype=np.uint64)])
            self._values = np.concatenate([self._values, np.zeros((room, self._layout.depth), dtype=np.int32)])
        self._packed[first:end] = packed
        self._values[first:end] = self._layout.unpack(packed)
        # One string object a domain, not one an item.
        self._domain_of += [sys.intern(item.domain) for item in items]
        self._titles += [item.title for item in items]
        self._item_ids += [item.item_id for item in items]
        # Last, since it is what makes a row visible to other threads.
        for ordinal, item in enumerate(items, start=first):
            self._ordinals.setdefault(item.domain, {})[item.item_id] = ordinal
        return range(first, end)

    def retitle(self, ordinal: int, title: str | None) -> None:
        """Change what is shown of an item."""
        self._titles[ordinal] = title

    def remove(self, key: ItemKey) -> None:
        """Take an item's row out of use."""
        ordinal = self._ordinals[key.domain].pop(key.item_id)
        self._item_ids[ordinal] = None
        self._titles[ordinal] = None
