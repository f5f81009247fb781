"""Queries on a Redis catalogue: items, totals, the change log, and the generations on a server.

Independent of how IDs are allocated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from service.catalogue.columns import ItemColumns
from service.catalogue.records import Changes, Generation, ItemKey, StoredItem, StoreStatus, Totals
from service.catalogue.redis_clients import FAILURES, connect
from service.catalogue.redis_keys import ID, PREFIX, read_value
from service.catalogue.redis_server import RedisServer
from service.errors import StoreUnavailable
from service.semantic_ids import TokenLayout

SCAN_BUCKETS = 64
"""Buckets read in one round trip."""


class RedisReader:
    """The read operations of `service.catalogue.store.CatalogueStore`.

    Parameters
    ----------
    server : the server with the keys
    generation : `BUNDLE:GENERATION`, for display
    layout : how its IDs are packed
    buckets : hashes that items are spread over
    """

    def __init__(self, server: RedisServer, generation: str, layout: TokenLayout, buckets: int) -> None:
        self._server = server
        self._redis, self._keys = server.client, server.keys
        self._generation = generation
        self._layout = layout
        self._bucket_count = buckets

    @property
    def layout(self) -> TokenLayout:
        """How semantic IDs are packed."""
        return self._layout

    def seeded(self) -> bool:
        """Whether `finish_seed` was called."""
        with self._server.errors():
            return bool(self._redis.hexists(self._keys.key("meta"), "seeded"))

    def get(self, keys: Sequence[ItemKey]) -> list[StoredItem | None]:
        """Live items in the order of `keys`, None for a missing one."""
        with self._server.errors():
            pipeline = self._redis.pipeline(transaction=False)
            for key in keys:
                field = self._keys.field(key)
                items, _, contents = self._keys.buckets(field, b"")
                pipeline.hget(items, field)
                pipeline.hget(contents, field)
            answers = pipeline.execute()
        found = map(read_value, keys, answers[::2], answers[1::2])
        return [item if item is not None and item.live else None for item in found]

    def scan(self) -> Iterator[list[StoredItem]]:
        """All live items in batches, unordered, without their content; concurrent changes may be missed or seen."""
        for batch in self.columns():
            yield batch.items()

    def columns(self) -> Iterator[ItemColumns]:
        """The items of `scan`, as columns."""
        self._keys.forget()
        for numbers in self._pieces():
            with self._server.errors():
                batch = self._keys.columns(self._buckets(["items"], numbers))
            if len(batch):
                yield batch

    def rows(self) -> Iterator[list[StoredItem]]:
        """All items in batches, with deleted ones and contents; concurrent changes may be missed or seen."""
        for numbers in self._pieces():
            with self._server.errors():
                # Read atomically, or an item registered in between would lack its content.
                buckets = self._buckets(["items", "contents"], numbers)
                found = [
                    read_value(self._keys.item_key(field), value, contents.get(field))
                    for items, contents in zip(buckets[: len(numbers)], buckets[len(numbers) :], strict=True)
                    for field, value in items.items()
                ]
            if batch := [item for item in found if item is not None]:
                yield batch

    def suffixes_used(self) -> Iterator[list[tuple[str, int, int]]]:
        """The suffix counters in batches: domain, ID with suffix 0, suffixes allocated."""
        for numbers in self._pieces():
            with self._server.errors():
                batch = [
                    (self._keys.domain(field[:2]), ID.unpack(field[2:])[0], int(used))
                    for bucket in self._buckets(["groups"], numbers)
                    for field, used in bucket.items()
                ]
            if batch:
                yield batch

    def totals(self) -> Totals:
        """Head, counts and fingerprints, read atomically."""
        with self._server.errors():
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.hget(self._keys.key("meta"), "sequence")
            pipeline.hgetall(self._keys.key("counts"))
            pipeline.hgetall(self._keys.key("fingerprints"))
            pipeline.hgetall(self._keys.key("domains"))
            head, counts, fingerprints, numbers = pipeline.execute()
            # Not the cached numbers: if both sides shared a mistake, they would agree.
            self._keys.learn(numbers)
            return Totals(
                int(head or 0),
                {self._keys.domain(number): int(count) for number, count in counts.items() if int(count)},
                {self._keys.domain(number): int(part, 16) for number, part in fingerprints.items() if int(part, 16)},
            )

    def head(self) -> int:
        """Sequence number of the latest change, 0 before the first."""
        with self._server.errors():
            return int(self._redis.hget(self._keys.key("meta"), "sequence") or 0)

    def changes(self, after: int, limit: int = 10_000) -> Changes:
        """At most `limit` changes after a sequence number."""
        return self._server.changes(after, limit)

    def checkpoint(self, name: str) -> str | None:
        """The value stored by `save_checkpoint` under a name."""
        with self._server.errors():
            value = self._redis.hget(self._keys.key("checkpoints"), name)
        return None if value is None else value.decode()

    def status(self) -> StoreStatus:
        """Counts and state, for display."""
        totals, seeded = self.totals(), self.seeded()
        with self._server.errors():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.xlen(self._keys.key("log"))
            for name in self._names():
                pipeline.memory_usage(self._keys.key(name))
            length, *sizes = pipeline.execute()
        return StoreStatus(
            kind="redis",
            where=self._server.where,
            generation=self._generation,
            seeded=seeded,
            items=totals.items,
            fingerprints=totals.fingerprints,
            head=totals.head,
            log_length=length,
            bytes=sum(size or 0 for size in sizes),
        )

    def close(self) -> None:
        """Close connections; the store must not be used afterwards."""
        self._server.close()

    def _pieces(self) -> Iterator[range]:
        """Ranges of bucket numbers, one per round trip, that cover all buckets."""
        for first in range(0, self._bucket_count, SCAN_BUCKETS):
            yield range(first, min(first + SCAN_BUCKETS, self._bucket_count))

    def _buckets(self, names: Sequence[str], numbers: Sequence[int]) -> list[dict[bytes, bytes]]:
        pipeline = self._redis.pipeline(transaction=len(names) > 1)
        for name in names:
            for number in numbers:
                pipeline.hgetall(self._keys.key(f"{name}:{number}"))
        buckets: list[dict[bytes, bytes]] = pipeline.execute()
        return buckets

    def _names(self) -> list[str]:
        """Every key of the generation, without the prefix."""
        names = ["meta", "domains", "counts", "fingerprints", "log", "checkpoints"]
        buckets = range(self._bucket_count)
        return names + [f"{name}:{bucket}" for name in ("items", "groups", "contents") for bucket in buckets]


def generations(url: str) -> Iterator[Generation]:
    """All generations on a server, sorted by name."""
    connected = connect(url)
    where, client = connected.where, connected.client
    try:
        # A scan may return a key more than once.
        keys = sorted(set(client.scan_iter(f"{PREFIX}{{*}}:meta", count=10_000)))
        found = [client.hmget(key, "layout", "dropped") for key in keys]
    except FAILURES as error:
        raise StoreUnavailable(f"{where}: {error}") from error
    finally:
        client.close()
    for key, (layout, dropped) in zip(keys, found, strict=True):
        bundle, _, number = key.decode().removeprefix(PREFIX + "{").removesuffix("}:meta").rpartition(":")
        shape = json.loads(layout)
        shape.pop("buckets")
        yield Generation(bundle, int(number), TokenLayout(**shape), dropped is not None)
