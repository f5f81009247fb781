"""Connection to the server of one Redis catalogue generation: scripts, change log, detection of lost data.

A *life* is a random name that the first client to open an empty server stores there. A different life means that the
server was emptied from outside, so cached domain and sequence numbers are invalid. A server that was reverted to an
older state keeps its life, but lacks the latest change known here, or holds another one under its number.

Independent of items.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from typing import Any

import redis

from service.catalogue.records import Changes
from service.catalogue.redis_clients import FAILURES, connect
from service.catalogue.redis_keys import RedisKeys
from service.catalogue.store import CHANGES_KEPT
from service.catalogue.store_rules import dropped_text, is_whole
from service.errors import ConfigError, NotReady, StoreUnavailable

SCRIPTS = ("register", "delete", "restore", "mend", "mark")


class RedisServer:
    """A server, with its identity as of the first answer.

    Parameters
    ----------
    url : as of `RedisStore`
    generation : `BUNDLE:GENERATION`
    layout : how IDs are packed, and `buckets`, the hashes that items are spread over; must be what the server holds
    serving : use a short time-out, since requests wait

    Attributes
    ----------
    where : address, never with a password
    client, keys : for read access

    Raises
    ------
    ConfigError : the URL is invalid, the server may evict keys, or it holds IDs of another layout
    StoreUnavailable : the server does not answer
    """

    def __init__(self, url: str, generation: str, layout: Mapping[str, int], *, serving: bool) -> None:
        self._generation = generation
        self._layout = json.dumps(layout)
        connected = connect(url, serving)
        self.where, self.client, self._forget_primary = connected.where, connected.client, connected.forget_primary
        number = self.client.register_script(_lua("domain"))
        self.keys = RedisKeys(self.client, generation, layout["buckets"], number)
        common = _lua("common")
        self._scripts = {name: self.client.register_script(common + _lua(name)) for name in SCRIPTS}
        self._life = b""
        # Number and mark of the latest change that the server has reported.
        self._told: tuple[int, bytes] | None = None
        try:
            self._require_no_eviction()
            self._begin()
        except BaseException:
            # The caller cannot do it: it gets an error, not a store to close.
            self.close()
            raise

    def run(self, name: str, fields: Iterable[tuple[str, bytes]], keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Run a script that changes items; `lua/common.lua` reads the first keys and arguments.

        Parameters
        ----------
        fields : domains, each with a field that contains its number
        """
        first_keys = [self.keys.key(part) for part in ("meta", "log", "counts", "fingerprints", "domains")]
        first = [self._life, CHANGES_KEPT, *(self._told or (0, b"")), self.keys.claims(fields)]
        said, *recorded = self._scripts[name]([*first_keys, *keys], [*first, *arguments])
        if recorded:
            self._told = recorded[0], recorded[1]
        return said

    def changes(self, after: int, limit: int = 10_000) -> Changes:
        """At most `limit` changes after a sequence number."""
        with self.errors():
            pipeline = self.client.pipeline(transaction=True)
            pipeline.hmget(self.keys.key("meta"), "sequence", "life", "dropped")
            pipeline.xrange(self.keys.key("log"), min=f"{after + 1}-0", count=limit)
            told = self._told or (0, b"")
            pipeline.xrange(self.keys.key("log"), min=f"{told[0]}-0", max=f"{told[0]}-0")
            pipeline.xrevrange(self.keys.key("log"), count=1)
            (head, life, dropped), entries, told_now, latest = pipeline.execute()
            if dropped:
                raise NotReady(f"{self.where}: {self._generation} was dropped")
            head = int(head or 0)
            if life != self._life:
                self._begin()
                return Changes((), head, gap=True, lost=True)
            if head < max(told[0], after) or any(_mark(fields) != told[1] for _, fields in told_now):
                # Cached data of the former state is invalid.
                self.keys.forget()
                self._told = None
                return Changes((), head, gap=True, lost=True)
            for entry_id, fields in latest:
                self._told = int(entry_id.split(b"-")[0]), _mark(fields)
            sequences = [int(entry_id.split(b"-")[0]) for entry_id, _ in entries]
            if not is_whole(after, head, sequences, limit):
                return Changes((), head, gap=True)
            keys = tuple(self.keys.item_key(fields[b"k"]) for _, fields in entries)
        return Changes(keys, sequences[-1] if sequences else after)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Convert client errors to `StoreUnavailable`, or to `NotReady` if the bundle's items are not stored."""
        try:
            yield
        except redis.ResponseError as error:
            if str(error).startswith("NOTSEEDED"):
                # An emptied server also answers this, until the change log is read.
                raise NotReady(f"{self.where}: the catalogue of {self._generation} is not stored yet") from None
            if str(error).startswith("SETBACK"):
                self.keys.forget()
                raise StoreUnavailable(
                    f"{self.where}: was set back to an older state; what it lacks is put back first"
                ) from None
            if isinstance(error, redis.ReadOnlyError):
                # The primary became a replica.
                self._forget_primary()
            raise StoreUnavailable(f"{self.where}: {error}") from error
        except FAILURES as error:
            raise StoreUnavailable(f"{self.where}: {error}") from error

    def close(self) -> None:
        """Close connections."""
        self.client.close()

    def _require_no_eviction(self) -> None:
        """Refuse a server that may evict catalogue keys: it would allocate IDs twice.

        Catalogue keys never expire, so the `volatile-*` policies are harmless.
        """
        with self.errors():
            options = {}
            if isinstance(self.client, redis.RedisCluster):
                meta = self.keys.key("meta")
                options["target_nodes"] = self.client.get_node_from_key(meta)  # type: ignore[no-untyped-call]
            try:
                policy = str(self.client.info("memory", **options).get("maxmemory_policy", ""))
            except redis.ResponseError:
                return  # The account may lack the permission.
        if policy.startswith("allkeys-"):
            raise ConfigError(
                f"{self.where}: its maxmemory-policy is {policy}, which removes items to make room, so that their "
                "semantic IDs are given again; it must be noeviction"
            )

    def _begin(self) -> None:
        """Check the layout, start a life if the server is empty, and read the current life."""
        meta = self.keys.key("meta")
        with self.errors():
            pipeline = self.client.pipeline(transaction=True)
            pipeline.hsetnx(meta, "layout", self._layout)
            pipeline.hsetnx(meta, "life", uuid.uuid4().hex)
            pipeline.hmget(meta, "layout", "life", "dropped")
            *_, (layout, life, dropped) = pipeline.execute()
        if dropped:
            raise ConfigError(dropped_text(self.where, self._generation))
        if layout.decode() != self._layout:
            raise ConfigError(
                f"{self.where} holds semantic IDs of {self._generation} with layout {layout.decode()}, but the bundle "
                f"has {self._layout}: give a bundle with other IDs a new generation"
            )
        self.keys.forget()
        self._told = None
        self._life = life


def _mark(fields: Mapping[bytes, bytes]) -> bytes:
    """Mark that distinguishes a change from a later one of the same item and number, after the server was reverted."""
    return fields[b"k"] + fields.get(b"c", fields.get(b"u", b""))


def _lua(name: str) -> str:
    return (resources.files("service.catalogue") / "lua" / f"{name}.lua").read_text(encoding="utf-8")
