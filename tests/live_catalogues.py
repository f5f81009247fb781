"""What tests of live catalogues share: a small layout, items, and what a search could find."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from service.catalogue.live import LiveCatalogue
from service.catalogue.opening import open_store
from service.catalogue.records import ItemKey, NewItem
from service.catalogue.store import CatalogueStore
from service.catalogue.view import CatalogueView
from service.semantic_ids import TokenLayout

LAYOUT = TokenLayout(levels=2, codes=4, experts=3, experts_per_item=1, suffixes=4)
names = (f"live-{number}" for number in itertools.count())


def opened(url: str, name: str) -> CatalogueStore:
    store = open_store(url, name, 1, LAYOUT)
    store.finish_seed()
    return store


def new(item_id: str, codes: tuple[int, int] = (1, 2), domain: str = "films", title: str | None = None) -> NewItem:
    return NewItem(domain, item_id, codes, (2,), title)


def key(item_id: str, domain: str = "films") -> ItemKey:
    return ItemKey(domain, item_id)


def reachable(view: CatalogueView, domains: Sequence[str], skip: Sequence[int] = ()) -> dict[ItemKey, tuple[int, ...]]:
    """What a search could find below the roots of some domains, by plain recursion, with the tokens on the way."""
    arrays = view.arrays
    met: list[tuple[int, tuple[int, ...]]] = []

    def walk(node: int, path: tuple[int, ...]) -> None:
        first = int(arrays.node_start[node])
        for edge in range(first, first + int(arrays.node_count[node])):
            if edge in skip:
                continue
            child, way = int(arrays.edge_child[edge]), (*path, int(arrays.edge_token[edge]))
            if len(way) == LAYOUT.depth:
                met.append((child, way))
            else:
                walk(child, way)

    for root in view.roots(domains):
        walk(int(root), ())
    ways = np.array([way for _, way in met], dtype=np.int32).reshape(-1, LAYOUT.depth)
    entries = view.items(np.array([child for child, _ in met], dtype=np.int32), ways)
    return {ItemKey(entry.domain, entry.item_id): way for entry, (_, way) in zip(entries, met, strict=True)}


def held(live: LiveCatalogue) -> dict[ItemKey, tuple[int, ...]]:
    with live.searching() as view:
        return reachable(view, sorted(live.domains()))
