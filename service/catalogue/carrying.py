"""From one ID generation to the next: what the old one holds gets IDs in the new one, and how far they differ.

Knows nothing of any one store, nor of networks.
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
    """What became of the old generation's items.

    Attributes
    ----------
    carried : got an ID in the new generation
    there : were there already, live or deleted
    deleted : were live in the new one and deleted in the old, and are deleted now
    without_content : cannot be tokenized: the store keeps no text of them
    refused : their group of the new generation is full
    renewed : of those that were there, got the title and content that the old one has now
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
    """Give every live item of the old generation an ID in the new one; may be repeated, and interrupted.

    What the new generation knows, deleted items included, keeps its ID.

    Parameters
    ----------
    ids_of : what the new generation's networks say of contents
    since : the items that the old generation began with, and their titles: what was deleted or renewed in it since is
        deleted or renewed in the new one, too. None once the new generation is current, which then knows best

    Raises
    ------
    NotReady, StoreUnavailable : nothing of the batch was stored; repeat the call
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
    """Give live items of the new generation the titles and contents that they have in the old; their IDs stay."""
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
    """Whether an item is as the old generation began with it, so that the new one may know better."""
    return item.content is None and item.key in since and since[item.key] == item.title


def _known(keys: Sequence[ItemKey], store: CatalogueStore) -> list[bool]:
    """Whether a store knows items, live or deleted."""
    outcomes = store.restore([StoredItem(*key, 0) for key in keys], dry=True)
    return [outcome in {Outcome.THERE, Outcome.OTHER_ID} for outcome in outcomes]


def moves(old: CatalogueStore, new: CatalogueStore) -> Moves:
    """Compare the IDs of two generations; their suffixes do not count."""
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
