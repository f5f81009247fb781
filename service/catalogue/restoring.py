"""Restores a store that was emptied or reverted, from the items in a replica's memory, under their published IDs.

Independent of how the loss was detected.
"""

from __future__ import annotations

import numpy as np

from service.catalogue.live_state import LiveState
from service.catalogue.records import StoredItem
from service.catalogue.store import CatalogueStore

PUT_BACK_ITEMS = 1000
"""Items restored in one step."""


def put_back(store: CatalogueStore, state: LiveState) -> None:
    """Restore every item of a state; items that the store has, deleted ones included, stay unchanged.

    Raises
    ------
    StoreUnavailable : some items may have been restored; the call can be repeated
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
