"""Places where catalogue stores live, one of each kind: SQLite in a folder, and a real server."""

from __future__ import annotations

import itertools

from redis_server import RedisServer

from service.catalogue.embedded import EmbeddedStore
from service.catalogue.opening import open_store
from service.catalogue.records import ItemKey, NewItem, StoredItem
from service.catalogue.store import CatalogueStore
from service.semantic_ids import TokenLayout

LAYOUT = TokenLayout(levels=2, codes=256, experts=5, experts_per_item=1, suffixes=300)
names = (f"bundle-{number}" for number in itertools.count())


class Place:
    """Where stores of one test live: open as many as replicas are wanted."""

    def __init__(self, url: str, server: RedisServer | None) -> None:
        self.url = url
        self.name = next(names)
        self.server = server
        self._open: list[CatalogueStore] = []

    def open(self, layout: TokenLayout = LAYOUT, generation: int = 1, seeded: bool = True) -> CatalogueStore:
        store = open_store(self.url, self.name, generation, layout)
        self._open.append(store)
        if seeded:
            store.finish_seed()
        return store

    def close(self) -> None:
        for store in self._open:
            store.close()


def everything(store: CatalogueStore) -> dict[ItemKey, StoredItem]:
    """All live items; none may come twice."""
    found = [item for batch in store.scan() for item in batch]
    assert len({item.key for item in found}) == len(found)
    return {item.key: item for item in found}


def new(item_id: str, codes: tuple[int, ...] = (1, 2), domain: str = "films", **more: str | None) -> NewItem:
    return NewItem(domain, item_id, codes, (3,), **more)


def suffixes(store: CatalogueStore, items: list[NewItem]) -> list[int]:
    return [int(suffix) for suffix in store.register(items).values[:, -1]]


def fill_domains(store: CatalogueStore, total: int) -> None:
    """Number new domains, `domain 0` and so on, as if items of theirs had been registered, until there are so many."""
    if isinstance(store, EmbeddedStore):
        with store._file.transaction() as cursor:
            (there,) = cursor.execute("SELECT count(*) FROM domain").fetchone()
            rows = [(f"domain {number}",) for number in range(total - there)]
            cursor.executemany("INSERT INTO domain (name) VALUES (?)", rows)
    else:
        client, key = store._redis, store._keys.key("domains")  # type: ignore[attr-defined]
        there = client.hlen(key)
        client.hset(key, mapping={f"domain {number}": there + number for number in range(total - there)})
