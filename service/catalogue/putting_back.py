"""Gives a store that was emptied or set back what a replica has in memory, under the IDs it was published with.

Knows nothing of how that was noticed.
"""

from __future__ import annotations

import numpy as np

from service.catalogue.live_state import LiveState
from service.catalogue.records import StoredItem
from service.catalogue.store import CatalogueStore

PUT_BACK_ITEMS = 1000
"""Items given back to a store in one step."""


def put_back(store: CatalogueStore, state: LiveState) -> None:
    """Give the store every item of a state; what it knows itself, deletions included, it keeps as it is.

    Raises
    ------
    StoreUnavailable : some items may have been given back; the call may be repeated
    """
    table = state.table
    ordinals, _ = table.rows()
    packed = store.layout.pack(table.values(ordinals))
    rising = np.argsort(packed)
    for first in range(0, len(rising), PUT_BACK_ITEMS):
        rows = rising[first : first + PUT_BACK_ITEMS]
        entries = table.entries_at(ordinals[rows].tolist())
        store.restore(
            [
                StoredItem(entry.domain, entry.item_id, number, entry.title)
                for entry, number in zip(entries, packed[rows].tolist(), strict=True)
            ]
        )
    if not store.seeded():
        store.finish_seed()
