"""The Redis catalogue store: several replicas share one ID generation through any server with the Redis protocol.

Every change is one Lua script (`lua/`), so it is atomic, and a batch costs one round trip. Acknowledged changes
survive `kill -9` of a server that runs with `appendonly yes` and `appendfsync always` (with `everysec` it may lose two
seconds, and then allocate an ID again). All keys of a generation have the same hash tag, so that they share a slot of
a Redis Cluster:

    unitok:{BUNDLE:GENERATION}:meta         layout, life, seeded, sequence number of the latest change
                              :domains      domain name -> two-byte number
                              :counts       domain number -> live items
                              :fingerprints domain number -> fingerprint of the live items, hexadecimal
                              :items:N      bucket N of hashes: field -> 8 bytes of ID, state, title
                              :groups:N     domain number and ID with suffix 0 -> suffixes allocated
                              :contents:N   field -> content
                              :log          stream of changed fields, each with the name of the call that changed it:
                                            `c` if it made or deleted the item, else `u`; the entry's ID is the
                                            sequence number
                              :checkpoints  name -> text

A *field* is the domain's number and the item_id. The state is `L` (live, without a title), `T` (live, a title follows)
or `D` (tombstone: the ID stays reserved). Buckets keep hashes small enough for the server's compact encoding; measured
with Valkey 9.1 an item takes about 130 bytes with a title of 60 letters, without its content. For `life` see
`redis_server.py`.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np

from service.catalogue.records import REFUSED, ItemKey, NewItem, Outcome, Registered, StoredItem, Totals
from service.catalogue.redis_keys import ID, state_of, title_state
from service.catalogue.redis_reading import RedisReader
from service.catalogue.redis_server import RedisServer
from service.catalogue.store_rules import base_ids, check_items, layout_of_ids
from service.errors import BundleError
from service.semantic_ids import TokenLayout

BUCKETS = 4096
"""Hashes that items are spread over; part of the stored format."""


class RedisStore(RedisReader):
    """See `service.catalogue.store.CatalogueStore`.

    Parameters
    ----------
    url : one server, a cluster, or a primary that Sentinel names; see `service/catalogue/redis_clients.py`
    bundle, generation : name the keys
    layout : must be the one that the keys were written with
    serving : use a short time-out, since requests wait

    Raises
    ------
    ConfigError : the URL is invalid, the server may evict keys, or it holds IDs of another layout
    StoreUnavailable : the server does not answer
    """

    def __init__(self, url: str, bundle: str, generation: int, layout: TokenLayout, *, serving: bool = False) -> None:
        name, layout_of_keys = f"{bundle}:{generation}", {**layout_of_ids(layout), "buckets": BUCKETS}
        super().__init__(RedisServer(url, name, layout_of_keys, serving=serving), name, layout, BUCKETS)

    def seed(self, items: Sequence[StoredItem]) -> None:
        """Store items of the bundle's catalogue with their IDs; idempotent, and does nothing after `finish_seed`."""
        for item, outcome in zip(items, self._restore(items, "seed"), strict=False):
            if outcome is Outcome.OTHER_ID:
                raise BundleError(
                    f"catalogue of {self._generation}: item {item.item_id!r} of domain {item.domain!r} has two IDs"
                )

    def restore(self, items: Sequence[StoredItem], dry: bool = False) -> list[Outcome]:
        """Restore items with their published IDs; returns one outcome per item, in order."""
        return self._restore(items, "dry" if dry else "restore")

    def _restore(self, items: Sequence[StoredItem], how: str) -> list[Outcome]:
        check_items(items)
        if not items:
            return []
        values = self._layout.unpack(np.array([item.packed for item in items], dtype=np.uint64))
        fields: list[tuple[str, bytes]] = []
        keys: list[str] = []
        arguments: list[Any] = [how]
        with self._server.errors():
            for item, suffix in zip(items, values[:, -1].tolist(), strict=True):
                field, base = self._keys.field(item.key, allot=how != "dry"), ID.pack(item.packed - suffix)
                fields.append((item.domain, field))
                keys += self._keys.buckets(field, base)
                arguments += [field, base, suffix, ID.pack(item.packed), state_of(item), item.content or ""]
            return [Outcome(answer.decode()) for answer in self._server.run("restore", fields, keys, arguments)]

    def finish_seed(self) -> None:
        """Mark the bundle's catalogue as complete, which enables `register` and `delete`."""
        with self._server.errors():
            self._server.run("mark", (), [self._keys.key("meta")], ["seeded", "yes"])

    def register(self, items: Sequence[NewItem]) -> Registered:
        """Store items and allocate their suffixes in one script."""
        bases = base_ids(items, self._layout)
        fields: list[tuple[str, bytes]] = []
        keys: list[str] = []
        arguments: list[Any] = [self._layout.suffixes, _call()]
        with self._server.errors():
            for item, base in zip(items, bases.tolist(), strict=True):
                field, packed = self._keys.field(ItemKey(item.domain, item.item_id), allot=True), ID.pack(base)
                fields.append((item.domain, field))
                keys += self._keys.buckets(field, packed)
                arguments += [field, packed, title_state(item.title), item.content or ""]
            answers: list[bytes] = self._server.run("register", fields, keys, arguments)
        values = np.full((len(items), self._layout.depth), REFUSED, dtype=np.int32)
        stored = np.array([bool(answer) for answer in answers], dtype=bool)
        ids = np.array([ID.unpack(answer[:8])[0] for answer in answers if answer], dtype=np.uint64)
        values[stored] = self._layout.unpack(ids)
        return Registered(values, np.array([answer[8:] == b"1" for answer in answers], dtype=bool))

    def delete(self, key: ItemKey) -> bool:
        """Remove an item and keep its ID reserved (tombstone); False if it was not live."""
        with self._server.errors():
            field = self._keys.field(key)
            items, _, contents = self._keys.buckets(field, b"")
            return bool(self._server.run("delete", [(key.domain, field)], [items, contents], [field, _call()]))

    def mend(self, totals: Totals, suffixes_used: Sequence[tuple[str, int, int]]) -> bool:
        """Correct stored counts and fingerprints, raise suffix counters; False if not at the totals' head."""
        domains = sorted(totals.items.keys() | totals.fingerprints.keys())
        arguments: list[Any] = [totals.head, len(domains)]
        fields: list[tuple[str, bytes]] = []
        keys: list[str] = []
        with self._server.errors():
            for domain in domains:
                fields.append((domain, self._keys.number(domain)))
                part = f"{totals.fingerprints.get(domain, 0):016x}"
                arguments += [self._keys.number(domain), totals.items.get(domain, 0), part]
            for domain, base, used in suffixes_used:
                group = self._keys.number(domain) + ID.pack(base)
                keys.append(self._keys.group(group))
                arguments += [group, used]
            return bool(self._server.run("mend", fields, keys, arguments))

    def save_checkpoint(self, name: str, value: str) -> None:
        """Store a small text for work that can resume."""
        with self._server.errors():
            self._server.run("mark", (), [self._keys.key("checkpoints")], [name, value])

    def drop(self) -> None:
        """Permanently remove all items; the generation can never be opened again."""
        with self._server.errors():
            # In one transaction: a dropped generation is never looked at again, so nothing may be left over.
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.hset(self._keys.key("meta"), "dropped", "yes")
            pipeline.hdel(self._keys.key("meta"), "seeded")
            for name in self._names():
                if name != "meta":
                    pipeline.unlink(self._keys.key(name))
            pipeline.execute()


def _call() -> bytes:
    """Idempotency key of a call: after a broken connection a client repeats it, though it may already be done."""
    return secrets.token_bytes(8)
