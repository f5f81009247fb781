"""Many live items as columns, for whoever reads a whole catalogue: texts stay bytes, numbers are arrays.

As objects of their own, items cost several times as much to make as to read. Knows nothing of how a store keeps them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.catalogue.records import StoredItem


def rows_of_each(numbers: NDArray[np.int32], count: int) -> list[NDArray[np.intp]]:
    """Where each of the numbers below `count` stands in int32 [n], rising: one sort, however many numbers there are."""
    ends = np.cumsum(np.bincount(numbers, minlength=count))
    return np.split(np.argsort(numbers, kind="stable"), ends)[:count]


@dataclass(frozen=True, slots=True, eq=False)
class ItemColumns:
    """n live items without their content.

    Attributes
    ----------
    domains : names of domains, each once
    domain : int32 [n], an item's domain as a place in `domains`
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
        """The columns of items."""
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
