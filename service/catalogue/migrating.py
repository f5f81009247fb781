"""Migrates a catalogue from one ID generation to the next, and counts the IDs that differ between the two.

Independent of the kind of store and of networks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from service.catalogue.checking import IdsOf
from service.catalogue.content import read_content
from service.catalogue.records import ItemKey, NewItem, Outcome, StoredItem
from service.catalogue.store import CatalogueStore
from service.items import compose_text

BATCH = 256
"""Items tokenized and registered together."""


@dataclass(slots=True)
class Carried:
    """Counts of the old generation's items, by outcome.

    Attributes
    ----------
    carried : got an ID in the new generation
    there : already existed in the new generation, live or deleted
    deleted : were live in the new generation but deleted in the old one; now deleted in both
    without_content : cannot be tokenized, because the store has no text for them
    refused : their group in the new generation is full
    renewed : existing items that were updated to the old generation's current title and content
    """

    carried: int = 0
    there: int = 0
    deleted: int = 0
    without_content: int = 0
    refused: int = 0
    renewed: int = 0


@dataclass(frozen=True, slots=True)
class Moves:
    """How the catalogues of two generations differ; `moved` of the `common` items have other codes or experts."""

    common: int
    moved: int
    only_old: int
    only_new: int


def carry(
    old: CatalogueStore,
    new: CatalogueStore,
    ids_of: IdsOf,
    since: Mapping[ItemKey, str | None] | None,
    advance: Callable[[int], None] = lambda items: None,
) -> Carried:
    """Give every live item of the old generation an ID in the new one. Can be interrupted and repeated.

    Items that the new generation already has, deleted ones included, keep their IDs.

    Parameters
    ----------
    ids_of : computes codes and experts with the new generation's networks
    since : the items that the old generation was seeded with, and their titles. Items deleted or updated since then are
        deleted or updated in the new generation, too. None once the new generation is current and so authoritative

    Raises
    ------
    NotReady, StoreUnavailable : nothing of the current batch was stored; repeat the call
    """
    done = Carried()
    for batch in old.rows():
        for first in range(0, len(batch), BATCH):
            items = batch[first : first + BATCH]
            live = [item for item in items if item.live]
            _carry(live, new, ids_of, done)
            if since is not None:
                _renew([item for item in live if not _is_first(item, since)], new, done)
                done.deleted += sum(new.delete(item.key) for item in items if not item.live)
            advance(len(items))
    return done


def _carry(items: Sequence[StoredItem], new: CatalogueStore, ids_of: IdsOf, done: Carried) -> None:
    known = _known([item.key for item in items], new)
    done.there += sum(known)
    missing = [item for item, there in zip(items, known, strict=True) if not there]
    contents = [read_content(item.title, item.content) for item in missing]
    readable = [row for row, content in enumerate(contents) if compose_text(content)]
    done.without_content += len(missing) - len(readable)
    if not readable:
        return
    values = ids_of([missing[row].domain for row in readable], [contents[row] for row in readable])
    levels = new.layout.levels
    registered = new.register(
        [
            NewItem(
                *missing[row].key, tuple(said[:levels]), tuple(said[levels:]), missing[row].title, missing[row].content
            )
            for row, said in zip(readable, values.tolist(), strict=True)
        ]
    )
    done.refused += int(registered.refused.sum())
    done.carried += int(registered.created.sum())


def _renew(items: Sequence[StoredItem], new: CatalogueStore, done: Carried) -> None:
    """Copy titles and contents from the old generation to live items of the new one; their IDs stay."""
    renewed = [
        (item, held)
        for item, held in zip(items, new.get([item.key for item in items]), strict=True)
        if held is not None
        and (item.title, item.content) != (held.title, held.content)
        and compose_text(read_content(item.title, item.content))
    ]
    if not renewed:
        return
    levels = new.layout.levels
    values = new.layout.unpack(np.array([held.packed for _, held in renewed], dtype=np.uint64)).tolist()
    new.register(
        [
            NewItem(*item.key, tuple(has[:levels]), tuple(has[levels:-1]), item.title, item.content)
            for (item, _), has in zip(renewed, values, strict=True)
        ]
    )
    done.renewed += len(renewed)


def _is_first(item: StoredItem, since: Mapping[ItemKey, str | None]) -> bool:
    """Whether an item is unchanged since the old generation was seeded; the new one may then hold a newer version."""
    return item.content is None and item.key in since and since[item.key] == item.title


def _known(keys: Sequence[ItemKey], store: CatalogueStore) -> list[bool]:
    """For each key, whether the store has the item, live or deleted."""
    outcomes = store.restore([StoredItem(*key, 0) for key in keys], dry=True)
    return [outcome in {Outcome.THERE, Outcome.OTHER_ID} for outcome in outcomes]


def moves(old: CatalogueStore, new: CatalogueStore) -> Moves:
    """Compare the IDs of two generations, ignoring suffixes."""
    common = moved = 0
    for batch in old.scan():
        found = new.get([item.key for item in batch])
        pairs = [(before.packed, after.packed) for before, after in zip(batch, found, strict=True) if after is not None]
        common += len(pairs)
        if pairs:
            one, other = np.array(pairs, dtype=np.uint64).T
            before, after = old.layout.unpack(one)[:, :-1], new.layout.unpack(other)[:, :-1]
            same_shape = before.shape == after.shape
            moved += int((before != after).any(axis=1).sum()) if same_shape else len(pairs)
    totals = [sum(store.totals().items.values()) for store in (old, new)]
    return Moves(common, moved, totals[0] - common, totals[1] - common)
