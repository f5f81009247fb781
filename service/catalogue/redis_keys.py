"""Byte format of keys, fields and values of a Redis catalogue; `service/catalogue/redis_store.py` lists them.

Changes nothing on the server but the numbers of domains.
"""

from __future__ import annotations

import json
import struct
import threading
import zlib
from collections.abc import Iterable, Mapping
from itertools import compress
from typing import Any

import numpy as np

from service.catalogue.columns import ItemColumns
from service.catalogue.records import ItemKey, StoredItem
from service.catalogue.store_rules import MAX_DOMAINS, too_many_domains
from service.errors import StoreUnavailable

PREFIX = "unitok:"

DELETED, TITLED = b"D", b"T"
"""State byte after the ID in the value of a deleted item, and of a live one with a title."""

ID = struct.Struct(">Q")
NUMBER = struct.Struct(">H")

UNKNOWN = NUMBER.pack(MAX_DOMAINS)
"""Number one past the last valid one; stands for every domain without a number."""


class RedisKeys:
    """The keys of one ID generation, with a cache of its domain numbers.

    Parameters
    ----------
    client : queried for numbers that are not cached; its errors pass through
    generation : `BUNDLE:GENERATION`
    buckets : hashes that items are spread over
    number : the script that allocates a domain's number
    """

    def __init__(self, client: Any, generation: str, buckets: int, number: Any) -> None:
        self._redis = client
        self._prefix = f"{PREFIX}{{{generation}}}:"
        self._buckets = buckets
        self._allot = number
        self._numbers: dict[str, bytes] = {}
        self._names: dict[bytes, str] = {}
        self._naming = threading.Lock()

    def key(self, name: str) -> str:
        """Full name of a key."""
        return self._prefix + name

    def buckets(self, field: bytes, base: bytes) -> tuple[str, str, str]:
        """Keys of the item, group and content buckets."""
        bucket = zlib.crc32(field) % self._buckets
        return self.key(f"items:{bucket}"), self.group(field[:2] + base), self.key(f"contents:{bucket}")

    def group(self, field: bytes) -> str:
        """Key of the group bucket; the field is the domain's number and the ID with suffix 0."""
        return self.key(f"groups:{zlib.crc32(field) % self._buckets}")

    def field(self, key: ItemKey, allot: bool = False) -> bytes:
        """Domain number and item_id; an unknown domain gets `UNKNOWN`, or with `allot` a new number."""
        return self.number(key.domain, allot) + key.item_id.encode()

    def number(self, domain: str, allot: bool = False) -> bytes:
        """Number of a domain.

        Raises
        ------
        LimitExceeded : with `allot`, no number is left; the server is unchanged
        """
        number = self._numbers.get(domain)
        if number is None:
            with self._naming:
                if allot:
                    answer = self._allot([self.key("domains")], [domain, MAX_DOMAINS])
                else:
                    answer = self._redis.hget(self.key("domains"), domain)
                if answer is not None and int(answer) < MAX_DOMAINS:
                    number = self._numbers[domain] = NUMBER.pack(int(answer))
        if number is None and allot:
            raise too_many_domains(domain)
        return UNKNOWN if number is None else number

    def claims(self, fields: Iterable[tuple[str, bytes]]) -> str:
        """Domain numbers used in these fields, as JSON for a script to check; unknown domains are left out."""
        numbers = {domain: NUMBER.unpack(field[: NUMBER.size])[0] for domain, field in fields}
        return json.dumps({domain: str(number) for domain, number in numbers.items() if number < MAX_DOMAINS})

    def item_key(self, field: bytes) -> ItemKey:
        """The item that a field names."""
        return ItemKey(self.domain(field[:2]), field[2:].decode())

    def domain(self, number: bytes) -> str:
        """Name of a domain; numbers allocated by another replica are looked up once."""
        if number not in self._names:
            with self._naming:
                self._names = _names(self._redis.hgetall(self.key("domains")))
        if number not in self._names:
            raise StoreUnavailable(f"{self._prefix}domains has no number {number.hex()}: the server is being emptied")
        return self._names[number]

    def columns(self, buckets: Iterable[Mapping[bytes, bytes]]) -> ItemColumns:
        """Parse the live items of item buckets, vectorised; `read_value` parses one."""
        fields: list[bytes] = []
        values: list[bytes] = []
        for bucket in buckets:
            fields += bucket
            values += bucket.values()
        states = b"".join([value[ID.size : ID.size + 1] for value in values])
        if DELETED in states:
            live = [state != DELETED[0] for state in states]
            fields, values = list(compress(fields, live)), list(compress(values, live))
        numbers = np.frombuffer(b"".join([field[: NUMBER.size] for field in fields]), dtype=">u2")
        present, domain = np.unique(numbers, return_inverse=True)
        return ItemColumns(
            tuple(self.domain(NUMBER.pack(number)) for number in present.tolist()),
            domain.astype(np.int32),
            [field[NUMBER.size :] for field in fields],
            np.frombuffer(b"".join([value[: ID.size] for value in values]), dtype=">u8").astype(np.uint64),
            [value[ID.size + 1 :] if value[ID.size] == TITLED[0] else None for value in values],
        )

    def learn(self, numbers: Mapping[bytes, bytes]) -> None:
        """Replace the cache by these domain numbers from the server."""
        with self._naming:
            self._names = _names(numbers)
            self._numbers = {name: number for number, name in self._names.items() if number != UNKNOWN}

    def forget(self) -> None:
        """Clear the cached domain numbers, which are invalid once the server was emptied."""
        with self._naming:
            self._numbers, self._names = {}, {}


def _names(numbers: Mapping[bytes, bytes]) -> dict[bytes, str]:
    """Names by number, from the server.

    Servers may hold numbers of domains beyond the limit, since earlier versions stored them although refused. Those
    that do not fit two bytes occur in no field. The first of them fits, so items may have been stored under it.
    """
    return {NUMBER.pack(int(value)): name.decode() for name, value in numbers.items() if int(value) <= MAX_DOMAINS}


def state_of(item: StoredItem) -> str:
    """The part of an item's value that follows the ID."""
    return title_state(item.title) if item.live else "D"


def title_state(title: str | None) -> str:
    """`state_of` a live item."""
    return "L" if title is None else "T" + title


def read_value(key: ItemKey, value: bytes | None, content: bytes | None) -> StoredItem | None:
    """Parse an item from its stored value, None if there is none."""
    if value is None:
        return None
    state = value[ID.size : ID.size + 1]
    title = value[ID.size + 1 :].decode() if state == TITLED else None
    packed: int = ID.unpack(value[: ID.size])[0]
    return StoredItem(*key, packed, title, None if content is None else content.decode(), state != DELETED)
