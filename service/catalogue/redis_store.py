"""The Redis catalogue store: several replicas share one ID generation through any server that speaks Redis' protocol.

Every change is one Lua script (`lua/`), so it happens wholly or not at all, and a batch costs one round trip. What was
acknowledged survives `kill -9` of a server that runs with `appendonly yes` and `appendfsync always` (with `everysec` it
may lose two seconds, and then give an ID again). All keys of a generation carry one hash tag, so that they share a slot
of a Redis Cluster:

    unitok:{BUNDLE:GENERATION}:meta         layout, life, seeded, sequence number of the latest change
                              :domains      domain name -> two-byte number
                              :counts       domain number -> live items
                              :fingerprints domain number -> fingerprint of the live items, hexadecimal
                              :items:N      bucket N of hashes: field -> 8 bytes of ID, state, title
                              :groups:N     domain number and ID with suffix 0 -> suffixes given away
                              :contents:N   field -> content
                              :log          stream of changed fields; the entry's ID is the sequence number
                              :checkpoints  name -> text

A *field* is the domain's number and the item_id. The state is `L` (live, without a title), `T` (live, a title follows)
or `D` (deleted: the ID stays reserved). Buckets keep a hash small enough for the server's compact encoding; measured
with Valkey 9.1 an item takes about 130 bytes with a title of 60 letters, its content aside.

A *life* is a random name that the first to open an empty server gives it. It tells a server that was emptied behind our
back from the one that we know, whose domain numbers and sequence numbers we remember. A server that was set back to an
older state keeps its life, but lacks the latest change that we know of, or holds another one under its number.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from typing import Any

import numpy as np
import redis

from service.catalogue.columns import ItemColumns
from service.catalogue.records import (
    REFUSED,
    Changes,
    Generation,
    ItemKey,
    NewItem,
    Outcome,
    Registered,
    StoredItem,
    StoreStatus,
    Totals,
)
from service.catalogue.redis_clients import FAILURES, connect
from service.catalogue.redis_keys import ID, PREFIX, RedisKeys, read_value, state_of, title_state
from service.catalogue.store import CHANGES_KEPT
from service.catalogue.store_rules import base_ids, check_items, dropped_text, is_whole, layout_of_ids
from service.errors import BundleError, ConfigError, NotReady, StoreUnavailable
from service.semantic_ids import TokenLayout

BUCKETS = 4096
"""Hashes that items are spread over; part of the stored format."""

SCAN_BUCKETS = 64
"""Buckets read in one round trip."""

SCRIPTS = ("register", "delete", "restore", "mend", "mark")


class RedisStore:
    """See `service.catalogue.store.CatalogueStore`.

    Parameters
    ----------
    url : one server, a cluster, or a primary that Sentinel names; see `service/catalogue/redis_clients.py`
    bundle, generation : name the keys
    layout : must be the one that the keys were written with
    serving : give up early, since requests wait

    Raises
    ------
    ConfigError : the URL is none, the server may remove keys to make room, or it holds IDs of another layout
    StoreUnavailable : the server does not answer
    """

    def __init__(self, url: str, bundle: str, generation: int, layout: TokenLayout, *, serving: bool = False) -> None:
        self._generation = f"{bundle}:{generation}"
        self._layout = layout
        connected = connect(url, serving)
        self._where, self._redis, self._forget_primary = connected.where, connected.client, connected.forget_primary
        number = self._redis.register_script(_lua("domain"))
        self._keys = RedisKeys(self._redis, self._generation, BUCKETS, number)
        common = _lua("common")
        self._scripts = {name: self._redis.register_script(common + _lua(name)) for name in SCRIPTS}
        self._life = b""
        # The latest change that the server is known to have had: its number and field.
        self._told: tuple[int, bytes] | None = None
        try:
            self._require_no_eviction()
            self._begin()
        except BaseException:
            # Nobody else can: whoever catches the error has no store to close.
            self.close()
            raise

    @property
    def layout(self) -> TokenLayout:
        """How semantic IDs are packed."""
        return self._layout

    def seed(self, items: Sequence[StoredItem]) -> None:
        """Store items of the bundle's catalogue with the IDs they have; may be repeated, does nothing once finished."""
        for item, outcome in zip(items, self._restore(items, "seed"), strict=False):
            if outcome is Outcome.OTHER_ID:
                raise BundleError(
                    f"catalogue of {self._generation}: item {item.item_id!r} of domain {item.domain!r} has two IDs"
                )

    def restore(self, items: Sequence[StoredItem], dry: bool = False) -> list[Outcome]:
        """Put items back that were published elsewhere; each item's outcome, in order."""
        return self._restore(items, "dry" if dry else "restore")

    def _restore(self, items: Sequence[StoredItem], how: str) -> list[Outcome]:
        check_items(items)
        if not items:
            return []
        values = self._layout.unpack(np.array([item.packed for item in items], dtype=np.uint64))
        fields: list[tuple[str, bytes]] = []
        keys: list[str] = []
        arguments: list[Any] = [how]
        with self._errors():
            for item, suffix in zip(items, values[:, -1].tolist(), strict=True):
                field, base = self._keys.field(item.key, allot=how != "dry"), ID.pack(item.packed - suffix)
                fields.append((item.domain, field))
                keys += self._keys.buckets(field, base)
                arguments += [field, base, suffix, ID.pack(item.packed), state_of(item), item.content or ""]
            return [Outcome(answer.decode()) for answer in self._run("restore", fields, keys, arguments)]

    def finish_seed(self) -> None:
        """Mark the bundle's catalogue as complete, which opens the store for `register` and `delete`."""
        with self._errors():
            self._run("mark", (), [self._keys.key("meta")], ["seeded", "yes"])

    def seeded(self) -> bool:
        """Whether `finish_seed` was called."""
        with self._errors():
            return bool(self._redis.hexists(self._keys.key("meta"), "seeded"))

    def register(self, items: Sequence[NewItem]) -> Registered:
        """Store items and allot their suffixes, all in one script."""
        bases = base_ids(items, self._layout)
        fields: list[tuple[str, bytes]] = []
        keys: list[str] = []
        arguments: list[Any] = [self._layout.suffixes]
        with self._errors():
            for item, base in zip(items, bases.tolist(), strict=True):
                field, packed = self._keys.field(ItemKey(item.domain, item.item_id), allot=True), ID.pack(base)
                fields.append((item.domain, field))
                keys += self._keys.buckets(field, packed)
                arguments += [field, packed, title_state(item.title), item.content or ""]
            answers: list[bytes] = self._run("register", fields, keys, arguments)
        values = np.full((len(items), self._layout.depth), REFUSED, dtype=np.int32)
        stored = np.array([bool(answer) for answer in answers], dtype=bool)
        ids = np.array([ID.unpack(answer[:8])[0] for answer in answers if answer], dtype=np.uint64)
        values[stored] = self._layout.unpack(ids)
        return Registered(values, np.array([answer[8:] == b"1" for answer in answers], dtype=bool))

    def delete(self, key: ItemKey) -> bool:
        """Remove an item, keeping its ID reserved; False where it was not live."""
        with self._errors():
            field = self._keys.field(key)
            items, _, contents = self._keys.buckets(field, b"")
            return bool(self._run("delete", [(key.domain, field)], [items, contents], [field]))

    def get(self, keys: Sequence[ItemKey]) -> list[StoredItem | None]:
        """Live items in the order asked for, None where there is none."""
        with self._errors():
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
        """All live items in batches, in no order, without their content; changes meanwhile may be missed or seen."""
        for batch in self.columns():
            yield batch.items()

    def columns(self) -> Iterator[ItemColumns]:
        """What `scan` gives, as columns."""
        self._keys.forget()
        for first in range(0, BUCKETS, SCAN_BUCKETS):
            with self._errors():
                batch = self._keys.columns(self._buckets(["items"], range(first, min(first + SCAN_BUCKETS, BUCKETS))))
            if len(batch):
                yield batch

    def rows(self) -> Iterator[list[StoredItem]]:
        """All items in batches, deleted ones and contents too; changes meanwhile may be missed or seen."""
        for first in range(0, BUCKETS, SCAN_BUCKETS):
            numbers = range(first, min(first + SCAN_BUCKETS, BUCKETS))
            with self._errors():
                # In one step, or an item that is registered in between would lack its content.
                buckets = self._buckets(["items", "contents"], numbers)
                found = [
                    read_value(self._keys.item_key(field), value, contents.get(field))
                    for items, contents in zip(buckets[: len(numbers)], buckets[len(numbers) :], strict=True)
                    for field, value in items.items()
                ]
            if batch := [item for item in found if item is not None]:
                yield batch

    def _buckets(self, names: Sequence[str], numbers: Sequence[int]) -> list[dict[bytes, bytes]]:
        pipeline = self._redis.pipeline(transaction=len(names) > 1)
        for name in names:
            for number in numbers:
                pipeline.hgetall(self._keys.key(f"{name}:{number}"))
        buckets: list[dict[bytes, bytes]] = pipeline.execute()
        return buckets

    def suffixes_used(self) -> Iterator[list[tuple[str, int, int]]]:
        """The suffix counters in batches: domain, ID with suffix 0, suffixes given away."""
        for first in range(0, BUCKETS, SCAN_BUCKETS):
            with self._errors():
                batch = [
                    (self._keys.domain(field[:2]), ID.unpack(field[2:])[0], int(used))
                    for bucket in self._buckets(["groups"], range(first, min(first + SCAN_BUCKETS, BUCKETS)))
                    for field, used in bucket.items()
                ]
            if batch:
                yield batch

    def totals(self) -> Totals:
        """Head, counts and fingerprints of one moment."""
        with self._errors():
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.hget(self._keys.key("meta"), "sequence")
            pipeline.hgetall(self._keys.key("counts"))
            pipeline.hgetall(self._keys.key("fingerprints"))
            pipeline.hgetall(self._keys.key("domains"))
            head, counts, fingerprints, numbers = pipeline.execute()
            # Not those that are remembered: two sides that share a mistake would agree.
            self._keys.learn(numbers)
            return Totals(
                int(head or 0),
                {self._keys.domain(number): int(count) for number, count in counts.items() if int(count)},
                {self._keys.domain(number): int(part, 16) for number, part in fingerprints.items() if int(part, 16)},
            )

    def mend(self, totals: Totals, suffixes_used: Sequence[tuple[str, int, int]]) -> bool:
        """Set the kept counts and fingerprints right and raise suffix counters; False if not at the totals' head."""
        domains = sorted(totals.items.keys() | totals.fingerprints.keys())
        arguments: list[Any] = [totals.head, len(domains)]
        fields: list[tuple[str, bytes]] = []
        keys: list[str] = []
        with self._errors():
            for domain in domains:
                fields.append((domain, self._keys.number(domain)))
                part = f"{totals.fingerprints.get(domain, 0):016x}"
                arguments += [self._keys.number(domain), totals.items.get(domain, 0), part]
            for domain, base, used in suffixes_used:
                group = self._keys.number(domain) + ID.pack(base)
                keys.append(self._keys.group(group))
                arguments += [group, used]
            return bool(self._run("mend", fields, keys, arguments))

    def head(self) -> int:
        """Sequence number of the latest change, 0 before the first."""
        with self._errors():
            return int(self._redis.hget(self._keys.key("meta"), "sequence") or 0)

    def changes(self, after: int, limit: int = 10_000) -> Changes:
        """At most `limit` changes after a sequence number."""
        with self._errors():
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.hmget(self._keys.key("meta"), "sequence", "life", "dropped")
            pipeline.xrange(self._keys.key("log"), min=f"{after + 1}-0", count=limit)
            told = self._told or (0, b"")
            pipeline.xrange(self._keys.key("log"), min=f"{told[0]}-0", max=f"{told[0]}-0")
            pipeline.xrevrange(self._keys.key("log"), count=1)
            (head, life, dropped), entries, told_now, latest = pipeline.execute()
            if dropped:
                raise NotReady(f"{self._where}: {self._generation} was dropped")
            head = int(head or 0)
            if life != self._life:
                self._begin()
                return Changes((), head, gap=True, lost=True)
            if head < max(told[0], after) or any(fields[b"k"] != told[1] for _, fields in told_now):
                # What was remembered of the state that it had is void.
                self._keys.forget()
                self._told = None
                return Changes((), head, gap=True, lost=True)
            for entry_id, fields in latest:
                self._told = int(entry_id.split(b"-")[0]), fields[b"k"]
            sequences = [int(entry_id.split(b"-")[0]) for entry_id, _ in entries]
            if not is_whole(after, head, sequences, limit):
                return Changes((), head, gap=True)
            keys = tuple(self._keys.item_key(fields[b"k"]) for _, fields in entries)
        return Changes(keys, sequences[-1] if sequences else after)

    def checkpoint(self, name: str) -> str | None:
        """What `save_checkpoint` kept under a name."""
        with self._errors():
            value = self._redis.hget(self._keys.key("checkpoints"), name)
        return None if value is None else value.decode()

    def save_checkpoint(self, name: str, value: str) -> None:
        """Keep a small text for work that resumes."""
        with self._errors():
            self._run("mark", (), [self._keys.key("checkpoints")], [name, value])

    def drop(self) -> None:
        """Remove all items for good; the generation can never be opened again."""
        with self._errors():
            # At once: who finds a dropped generation does not look at it again.
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.hset(self._keys.key("meta"), "dropped", "yes")
            pipeline.hdel(self._keys.key("meta"), "seeded")
            for name in self._names():
                if name != "meta":
                    pipeline.unlink(self._keys.key(name))
            pipeline.execute()

    def _names(self) -> list[str]:
        """Every key of the generation, without the prefix."""
        names = ["meta", "domains", "counts", "fingerprints", "log", "checkpoints"]
        return names + [f"{name}:{bucket}" for name in ("items", "groups", "contents") for bucket in range(BUCKETS)]

    def status(self) -> StoreStatus:
        """Counts and state, for people."""
        totals, seeded = self.totals(), self.seeded()
        with self._errors():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.xlen(self._keys.key("log"))
            for name in self._names():
                pipeline.memory_usage(self._keys.key(name))
            length, *sizes = pipeline.execute()
        return StoreStatus(
            kind="redis",
            where=self._where,
            generation=self._generation,
            seeded=seeded,
            items=totals.items,
            fingerprints=totals.fingerprints,
            head=totals.head,
            log_length=length,
            bytes=sum(size or 0 for size in sizes),
        )

    def close(self) -> None:
        """Give up connections; the store must not be used afterwards."""
        self._redis.close()

    def _run(
        self, name: str, fields: Iterable[tuple[str, bytes]], keys: Sequence[str], arguments: Sequence[Any]
    ) -> Any:
        """Run a script that changes items; `lua/common.lua` reads the first keys and arguments.

        Parameters
        ----------
        fields : domains, each with a field in which its number was used
        """
        first_keys = [self._keys.key(part) for part in ("meta", "log", "counts", "fingerprints", "domains")]
        first = [self._life, CHANGES_KEPT, *(self._told or (0, b"")), self._keys.claims(fields)]
        said, *recorded = self._scripts[name]([*first_keys, *keys], [*first, *arguments])
        if recorded:
            self._told = recorded[0], recorded[1]
        return said

    def _require_no_eviction(self) -> None:
        """Refuse a server that may remove keys of ours to make room: it would give IDs again that others have.

        Ours never expire, so the policies that look only at keys which do are harmless.
        """
        with self._errors():
            options = {}
            if isinstance(self._redis, redis.RedisCluster):
                meta = self._keys.key("meta")
                options["target_nodes"] = self._redis.get_node_from_key(meta)  # type: ignore[no-untyped-call]
            try:
                policy = str(self._redis.info("memory", **options).get("maxmemory_policy", ""))
            except redis.ResponseError:
                return  # Not every account may ask.
        if policy.startswith("allkeys-"):
            raise ConfigError(
                f"{self._where}: its maxmemory-policy is {policy}, which removes items to make room, so that their "
                "semantic IDs are given again; it must be noeviction"
            )

    def _begin(self) -> None:
        """Check the layout, begin a life where the server is empty, and learn which one it is in."""
        expected = json.dumps({**layout_of_ids(self._layout), "buckets": BUCKETS})
        meta = self._keys.key("meta")
        with self._errors():
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.hsetnx(meta, "layout", expected)
            pipeline.hsetnx(meta, "life", uuid.uuid4().hex)
            pipeline.hmget(meta, "layout", "life", "dropped")
            *_, (layout, life, dropped) = pipeline.execute()
        if dropped:
            raise ConfigError(dropped_text(self._where, self._generation))
        if layout.decode() != expected:
            raise ConfigError(
                f"{self._where} holds semantic IDs of {self._generation} with layout {layout.decode()}, but the bundle "
                f"has {expected}: give a bundle with other IDs a new generation"
            )
        self._keys.forget()
        self._told = None
        self._life = life

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except redis.ResponseError as error:
            if str(error).startswith("NOTSEEDED"):
                # Also how a server that was emptied shows itself, until the change log is looked at.
                raise NotReady(f"{self._where}: the catalogue of {self._generation} is not stored yet") from None
            if str(error).startswith("SETBACK"):
                self._keys.forget()
                raise StoreUnavailable(
                    f"{self._where}: was set back to an older state; what it lacks is put back first"
                ) from None
            if isinstance(error, redis.ReadOnlyError):
                # A primary that became a replica.
                self._forget_primary()
            raise StoreUnavailable(f"{self._where}: {error}") from error
        except FAILURES as error:
            raise StoreUnavailable(f"{self._where}: {error}") from error


def generations(url: str) -> Iterator[Generation]:
    """Every generation that a server holds, by name."""
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


def _lua(name: str) -> str:
    return (resources.files("service.catalogue") / "lua" / f"{name}.lua").read_text(encoding="utf-8")
