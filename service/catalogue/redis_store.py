"""The Redis catalogue store: several replicas share one ID generation through any server that speaks Redis' protocol.

Every change is one Lua script (`lua/`), so it happens wholly or not at all, and a batch costs one round trip. What was
acknowledged survives `kill -9` of a server that runs with `appendonly yes` and `appendfsync always` (with `everysec` it
may lose two seconds, and then give an ID again). All keys of a generation carry one hash tag, so that they share a slot
of a Redis Cluster:

    unitok:{BUNDLE:GENERATION}:meta         layout, seeded, sequence number of the latest change
                              :domains      domain name -> two-byte number
                              :counts       domain number -> live items
                              :items:N      bucket N of hashes: field -> 8 bytes of ID, state, title
                              :groups:N     domain number and ID with suffix 0 -> suffixes given away
                              :contents:N   field -> content
                              :log          stream of changed fields; the entry's ID is the sequence number
                              :checkpoints  name -> text

A *field* is the domain's number and the item_id. The state is `L` (live, without a title), `T` (live, a title follows)
or `D` (deleted: the ID stays reserved). Buckets keep a hash small enough for the server's compact encoding; measured
with Valkey 9.1 an item takes about 130 bytes with a title of 60 letters, its content aside.
"""

from __future__ import annotations

import json
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from service.catalogue.store import (
    CHANGES_KEPT,
    REFUSED,
    Changes,
    ItemKey,
    NewItem,
    Registered,
    StoredItem,
    StoreStatus,
    base_ids,
    check_seed,
    layout_of_ids,
)
from service.errors import BundleError, ConfigError, LimitExceeded, NotReady, StoreUnavailable
from service.semantic_ids import TokenLayout

BUCKETS = 4096
"""Hashes that items are spread over; part of the stored format."""

MAX_DOMAINS = 1 << 16

SCAN_BUCKETS = 64
"""Buckets read in one round trip."""

TIMEOUT_SECONDS = 10.0

RETRY_SECONDS = 0.4
"""Longest pause before one of three further attempts; every call may be repeated safely."""

ID = struct.Struct(">Q")
NUMBER = struct.Struct(">H")


class RedisStore:
    """See `service.catalogue.store.CatalogueStore`.

    Parameters
    ----------
    url : `redis://[user:password@]host[:port][/database]`, or `rediss://` for TLS
    bundle, generation : name the keys
    layout : must be the one that the keys were written with
    """

    def __init__(self, url: str, bundle: str, generation: int, layout: TokenLayout) -> None:
        self._generation = f"{bundle}:{generation}"
        self._prefix = f"unitok:{{{self._generation}}}:"
        self._layout = layout
        self._numbers: dict[str, bytes] = {}
        self._names: dict[bytes, str] = {}
        self._naming = threading.Lock()
        try:
            parts = urlsplit(url)
            self._where = f"{parts.scheme}://{parts.hostname}:{parts.port or 6379}{parts.path}"
            self._redis: Any = redis.Redis.from_url(
                url,
                socket_timeout=TIMEOUT_SECONDS,
                socket_connect_timeout=TIMEOUT_SECONDS,
                health_check_interval=30,
                retry=Retry(ExponentialBackoff(cap=RETRY_SECONDS, base=RETRY_SECONDS / 8), 3),
            )
        except ValueError:
            # The message of the parser may repeat a piece of the password.
            raise ConfigError(
                "store URL redis://...: must be redis://[user:password@]HOST[:PORT][/DATABASE]; the characters "
                "/ : @ # ? of a password must be written as %2F %3A %40 %23 %3F"
            ) from None
        scripts = {name: self._redis.register_script(_lua(name)) for name in ("register", "delete", "seed", "domain")}
        self._register, self._delete = scripts["register"], scripts["delete"]
        self._seed, self._domain = scripts["seed"], scripts["domain"]
        self._check_layout()

    @property
    def layout(self) -> TokenLayout:
        """How semantic IDs are packed."""
        return self._layout

    def seed(self, items: Sequence[StoredItem]) -> None:
        """Store items of the bundle's catalogue with the IDs they have; may be repeated, does nothing once finished."""
        check_seed(items)
        if not items:
            return
        values = self._layout.unpack(np.array([item.packed for item in items], dtype=np.uint64))
        keys, arguments = [self._key("meta"), self._key("counts")], []
        with self._errors():
            for item, suffix in zip(items, values[:, -1].tolist(), strict=True):
                field, base = self._field(item.key, allot=True), ID.pack(item.packed - suffix)
                keys += self._buckets(field, base)
                arguments += [field, base, suffix, ID.pack(item.packed), _title(item.title), item.content or ""]
            conflict = self._seed(keys, arguments)
        if conflict:
            item = items[conflict - 1]
            raise BundleError(
                f"catalogue of {self._generation}: item {item.item_id!r} of domain {item.domain!r} has two IDs"
            )

    def finish_seed(self) -> None:
        """Mark the bundle's catalogue as complete, which opens the store for `register` and `delete`."""
        with self._errors():
            self._redis.hset(self._key("meta"), "seeded", "yes")

    def seeded(self) -> bool:
        """Whether `finish_seed` was called."""
        with self._errors():
            return bool(self._redis.hexists(self._key("meta"), "seeded"))

    def register(self, items: Sequence[NewItem]) -> Registered:
        """Store items and allot their suffixes, all in one script."""
        bases = base_ids(items, self._layout)
        keys: list[str] = [self._key("meta"), self._key("log"), self._key("counts")]
        arguments: list[Any] = [self._layout.suffixes, CHANGES_KEPT]
        with self._errors():
            for item, base in zip(items, bases.tolist(), strict=True):
                field, packed = self._field(ItemKey(item.domain, item.item_id), allot=True), ID.pack(base)
                keys += self._buckets(field, packed)
                arguments += [field, packed, _title(item.title), item.content or ""]
            answers: list[bytes] = self._register(keys, arguments)
        values = np.full((len(items), self._layout.depth), REFUSED, dtype=np.int32)
        stored = np.array([bool(answer) for answer in answers], dtype=bool)
        ids = np.array([ID.unpack(answer[:8])[0] for answer in answers if answer], dtype=np.uint64)
        values[stored] = self._layout.unpack(ids)
        return Registered(values, np.array([answer[8:] == b"1" for answer in answers], dtype=bool))

    def delete(self, key: ItemKey) -> bool:
        """Remove an item, keeping its ID reserved; False where it was not live."""
        with self._errors():
            field = self._field(key)
            items, _, contents = self._buckets(field, b"")
            keys = [self._key("meta"), self._key("log"), self._key("counts"), items, contents]
            return bool(self._delete(keys, [CHANGES_KEPT, field]))

    def get(self, keys: Sequence[ItemKey]) -> list[StoredItem | None]:
        """Live items in the order asked for, None where there is none."""
        with self._errors():
            pipeline = self._redis.pipeline(transaction=False)
            for key in keys:
                field = self._field(key)
                items, _, contents = self._buckets(field, b"")
                pipeline.hget(items, field)
                pipeline.hget(contents, field)
            answers = pipeline.execute()
        return [
            _stored(key, value, content) for key, value, content in zip(keys, answers[::2], answers[1::2], strict=True)
        ]

    def scan(self) -> Iterator[list[StoredItem]]:
        """All live items in batches, in no order, without their content; changes meanwhile may be missed or seen."""
        for first in range(0, BUCKETS, SCAN_BUCKETS):
            with self._errors():
                pipeline = self._redis.pipeline(transaction=False)
                for bucket in range(first, min(first + SCAN_BUCKETS, BUCKETS)):
                    pipeline.hgetall(self._key(f"items:{bucket}"))
                buckets = pipeline.execute()
                found = [
                    _stored(self._item_key(field), value, None) for bucket in buckets for field, value in bucket.items()
                ]
            if batch := [item for item in found if item is not None]:
                yield batch

    def head(self) -> int:
        """Sequence number of the latest change, 0 before the first."""
        with self._errors():
            return int(self._redis.hget(self._key("meta"), "sequence") or 0)

    def changes(self, after: int, limit: int = 10_000) -> Changes:
        """At most `limit` changes after a sequence number."""
        with self._errors():
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.hget(self._key("meta"), "sequence")
            pipeline.xrange(self._key("log"), min=f"{after + 1}-0", count=limit)
            head, entries = pipeline.execute()
            head = int(head or 0)
            sequences = [int(entry_id.split(b"-")[0]) for entry_id, _ in entries]
            if after > head or (after < head and (not sequences or sequences[0] != after + 1)):
                return Changes((), head, gap=True)
            keys = tuple(self._item_key(fields[b"k"]) for _, fields in entries)
        return Changes(keys, sequences[-1] if sequences else after)

    def checkpoint(self, name: str) -> str | None:
        """What `save_checkpoint` kept under a name."""
        with self._errors():
            value = self._redis.hget(self._key("checkpoints"), name)
        return None if value is None else value.decode()

    def save_checkpoint(self, name: str, value: str) -> None:
        """Keep a small text for work that resumes."""
        with self._errors():
            self._redis.hset(self._key("checkpoints"), name, value)

    def status(self) -> StoreStatus:
        """Counts and state, for people."""
        with self._errors():
            counts = self._redis.hgetall(self._key("counts"))
            items = {self._name(number): int(count) for number, count in counts.items() if int(count)}
        return StoreStatus("redis", self._where, self._generation, self.seeded(), items, self.head())

    def close(self) -> None:
        """Give up connections; the store must not be used afterwards."""
        self._redis.close()

    def _key(self, name: str) -> str:
        return self._prefix + name

    def _buckets(self, field: bytes, base: bytes) -> tuple[str, str, str]:
        """Keys of the item, group and content buckets."""
        bucket, group = zlib.crc32(field) % BUCKETS, zlib.crc32(field[:2] + base) % BUCKETS
        return self._key(f"items:{bucket}"), self._key(f"groups:{group}"), self._key(f"contents:{bucket}")

    def _field(self, key: ItemKey, allot: bool = False) -> bytes:
        """Domain number and item_id; an unknown domain has a number that is never allotted, unless asked for one."""
        number = self._numbers.get(key.domain)
        if number is None:
            with self._naming:
                if allot:
                    answer = int(self._domain([self._key("domains")], [key.domain]))
                else:
                    answer = int(self._redis.hget(self._key("domains"), key.domain) or MAX_DOMAINS - 1)
                if allot and answer >= MAX_DOMAINS - 1:
                    raise LimitExceeded(f"domain {key.domain!r} is one too many: a store holds {MAX_DOMAINS - 1}")
                number = NUMBER.pack(answer)
                if answer < MAX_DOMAINS - 1:
                    self._numbers[key.domain] = number
        return number + key.item_id.encode()

    def _item_key(self, field: bytes) -> ItemKey:
        return ItemKey(self._name(field[:2]), field[2:].decode())

    def _name(self, number: bytes) -> str:
        """Name of a domain; numbers that another replica allotted are looked up once."""
        if number not in self._names:
            with self._naming:
                numbers = self._redis.hgetall(self._key("domains"))
                self._names = {NUMBER.pack(int(value)): name.decode() for name, value in numbers.items()}
        return self._names[number]

    def _check_layout(self) -> None:
        expected = json.dumps({**layout_of_ids(self._layout), "buckets": BUCKETS})
        with self._errors():
            self._redis.hsetnx(self._key("meta"), "layout", expected)
            found = self._redis.hget(self._key("meta"), "layout").decode()
        if found != expected:
            raise ConfigError(
                f"{self._where} holds semantic IDs of {self._generation} with layout {found}, but the bundle has "
                f"{expected}: give a bundle with other IDs a new generation"
            )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except redis.ResponseError as error:
            if str(error).startswith("NOTSEEDED"):
                # Also how a flushed server shows itself: what was remembered of its domains is void then.
                self._numbers, self._names = {}, {}
                raise NotReady(f"{self._where}: the catalogue of {self._generation} is not stored yet") from None
            raise StoreUnavailable(f"{self._where}: {error}") from error
        except (redis.RedisError, OSError) as error:
            raise StoreUnavailable(f"{self._where}: {error}") from error


def _lua(name: str) -> str:
    return (resources.files("service.catalogue") / "lua" / f"{name}.lua").read_text(encoding="utf-8")


def _title(title: str | None) -> str:
    return "L" if title is None else "T" + title


def _stored(key: ItemKey, value: bytes | None, content: bytes | None) -> StoredItem | None:
    """An item from its stored value, None where it is missing or deleted."""
    if value is None or value[8:9] == b"D":
        return None
    title = value[9:].decode() if value[8:9] == b"T" else None
    return StoredItem(*key, ID.unpack(value[:8])[0], title, None if content is None else content.decode())
