"""Columnar form of many live items, for reading a whole catalogue: texts stay bytes, numbers are arrays.

Creating one object per item costs several times as much as reading it. Independent of how a store keeps items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.catalogue.records import StoredItem


def rows_of_each(numbers: NDArray[np.int32], count: int) -> list[NDArray[np.intp]]:
    """For each number below `count`, its ascending row indices in `numbers`, int32 [n]; needs only one sort."""
    ends = np.cumsum(np.bincount(numbers, minlength=count))
    return np.split(np.argsort(numbers, kind="stable"), ends)[:count]


@dataclass(frozen=True, slots=True, eq=False)
class ItemColumns:
    """n live items without their content.

    Attributes
    ----------
    domains : names of domains, each once
    domain : int32 [n], an item's domain as an index into `domains`
    names : item_ids in UTF-8, n of them
    packed : uint64 [n], semantic IDs
    titles : in UTF-8, None where there is none, n of them
    """

    domains: tuple[str, ...]
    domain: NDArray[np.int32]
    names: list[bytes]
    packed: NDArray[np.uint64]
    titles: list[bytes | None]

    @classmethod
    def of(cls, items: Sequence[StoredItem]) -> ItemColumns:
        """Convert items to columns."""
        places = {domain: place for place, domain in enumerate(dict.fromkeys(item.domain for item in items))}
        return cls(
            tuple(places),
            np.array([places[item.domain] for item in items], dtype=np.int32),
            [item.item_id.encode() for item in items],
            np.array([item.packed for item in items], dtype=np.uint64),
            [None if item.title is None else item.title.encode() for item in items],
        )

    def items(self) -> list[StoredItem]:
        """Inverse of `of`."""
        rows = zip(self.domain.tolist(), self.names, self.packed.tolist(), self.titles, strict=True)
        return [
            StoredItem(self.domains[place], name.decode(), packed, None if title is None else title.decode())
            for place, name, packed, title in rows
        ]

    def __len__(self) -> int:
        return len(self.names)
