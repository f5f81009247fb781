"""What verify finds in stores that were broken by hand, and what repair sets right."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis_server import RedisServer

from service.catalogue import redis_store
from service.catalogue.checking import Examination, examine, repair
from service.catalogue.embedded import EmbeddedStore
from service.catalogue.opening import open_store
from service.catalogue.records import ItemKey, NewItem, StoredItem
from service.catalogue.redis_store import RedisStore
from service.catalogue.store import CatalogueStore
from service.errors import StoreUnavailable
from service.items import ItemContent
from service.semantic_ids import TokenLayout

pytestmark = pytest.mark.usefixtures("few_buckets")
LAYOUT = TokenLayout(levels=2, codes=200, experts=5, experts_per_item=1, suffixes=30)
names = (f"checked-{number}" for number in itertools.count())


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[EmbeddedStore]:
    store = open_store(f"embedded:{tmp_path}", "b", 1, LAYOUT)
    assert isinstance(store, EmbeddedStore)
    fill(store)
    yield store
    store.close()


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[RedisStore]:
    store = open_store(redis_server.url, next(names), 1, LAYOUT)
    assert isinstance(store, RedisStore)
    fill(store)
    yield store
    store.close()


@pytest.fixture(params=["embedded", "redis"])
def store(request: pytest.FixtureRequest) -> CatalogueStore:
    found: CatalogueStore = request.getfixturevalue(request.param)
    return found


def fill(store: CatalogueStore) -> None:
    store.finish_seed()
    for domain in ("films", "books"):
        store.register([NewItem(domain, f"i{n}", (n % 7, n % 2), (n % 3,), f"t{n}") for n in range(100)])
    for number in range(0, 100, 9):
        store.delete(ItemKey("films", f"i{number}"))
    store.register([NewItem("films", "i0", (0, 0), (0,), "back", '{"brand":"x"}')])


def texts(found: Examination) -> str:
    return "; ".join(finding.what for finding in found.findings)


def hash_of(store: RedisStore, name: str) -> tuple[Any, str]:
    return store._redis, store._keys.key(name)


def test_a_sound_catalogue_gives_no_finding(store: CatalogueStore) -> None:
    found = examine(store)
    assert found.findings == found.counters == ()
    assert (found.totals, found.deleted, found.compared) == (store.totals(), 11, None)
    assert repair(store).findings == ()
    assert store.totals() == found.totals


def test_wrong_fingerprints_of_a_file_are_found_and_mended(embedded: EmbeddedStore) -> None:
    right = embedded.totals()
    with sqlite3.connect(embedded._path) as connection:
        connection.execute("UPDATE fingerprint SET value = value + 1 WHERE domain = 1")
    connection.close()
    (finding,) = examine(embedded).findings
    assert finding.mendable
    assert finding.what == "domain 'films': the fingerprint is not that of its items"
    assert repair(embedded).findings == (finding,)
    assert embedded.totals() == right
    assert examine(embedded).findings == ()


def test_wrong_counts_and_fingerprints_of_a_server_are_found_and_mended(redis: RedisStore) -> None:
    right = redis.totals()
    client, counts = hash_of(redis, "counts")
    client.hset(counts, redis._keys.number("films"), 5)
    client.delete(redis._keys.key("fingerprints"))
    found = examine(redis)
    assert "domain 'films': the store counts 5 items, but holds 89" in texts(found)
    assert sum("fingerprint" in finding.what for finding in found.findings) == 2
    repair(redis)
    assert redis.totals() == right
    assert examine(redis).findings == ()


def test_a_counter_that_would_give_an_id_twice_is_found_and_raised(redis: RedisStore) -> None:
    client, _ = hash_of(redis, "meta")
    for bucket in range(16):
        client.delete(redis._keys.key(f"groups:{bucket}"))
    # Registered into a group that counts anew, an item gets the ID of another.
    before = {item.packed for batch in redis.rows() for item in batch if item.domain == "books"}
    twin = redis.register([NewItem("books", "twin", (1, 1), (1,))])
    assert int(LAYOUT.pack(twin.values)[0]) in before
    found = examine(redis)
    assert "suffixes, but counts fewer" in texts(found)
    (double,) = [finding for finding in found.findings if not finding.mendable]
    assert "names" in double.what
    assert "'twin'" in double.what
    repaired = repair(redis)
    assert len(repaired.counters) > 10
    assert [finding for finding in examine(redis).findings if finding.mendable] == []
    next_one = redis.register([NewItem("books", "fresh", (1, 1), (1,))])
    assert int(LAYOUT.pack(next_one.values)[0]) not in before


def test_a_counter_that_is_one_too_low_is_raised(redis: RedisStore) -> None:
    redis.register([NewItem("d", name, (5, 5), (0,)) for name in "ab"])
    field = redis._keys.number("d") + redis_store.ID.pack(int(LAYOUT.pack(np.array([[5, 5, 0, 0]]))[0]))
    redis._redis.hset(redis._keys.group(field), field, 1)
    assert "has given away 2 suffixes, but counts fewer" in texts(examine(redis))
    repair(redis)
    assert redis.register([NewItem("d", "c", (5, 5), (0,))]).values[0, -1] == 2


def test_a_counter_that_is_higher_is_left(redis: RedisStore) -> None:
    redis.register([NewItem("d", "a", (5, 5), (0,))])
    field = redis._keys.number("d") + redis_store.ID.pack(int(LAYOUT.pack(np.array([[5, 5, 0, 0]]))[0]))
    redis._redis.hset(redis._keys.group(field), field, 9)
    assert examine(redis).findings == ()
    redis._redis.delete(redis._keys.key("counts"))
    repair(redis)
    assert redis.register([NewItem("d", "b", (5, 5), (0,))]).values[0, -1] == 9


@pytest.mark.parametrize("number", [2**64 - 1, 1 << 24, 200 << 16, 30], ids=["all", "a bit above", "code", "suffix"])
def test_an_id_that_is_none_is_named(redis: RedisStore, number: int) -> None:
    field = redis._keys.field(ItemKey("films", "i1"))
    items, *_ = redis._keys.buckets(field, b"")
    redis._redis.hset(items, field, number.to_bytes(8, "big") + b"L")
    text = texts(examine(redis))
    assert f"item 'i1' of domain 'films' has the ID {number:#x}, which is none of the layout" in text


@pytest.mark.parametrize("broken", ["hole", "stranger"])
def test_a_broken_log_is_named(redis: RedisStore, broken: str) -> None:
    client, log = hash_of(redis, "log")
    if broken == "hole":
        client.xdel(log, "50-0")
        client.xdel(log, "51-0")
        expected = "change log: a change between 2 and 213 is missing"
    else:
        client.hset(redis._keys.key("meta"), "sequence", redis.head() + 1)
        client.xadd(log, {"k": redis._keys.number("films") + b"nobody"}, id=f"{redis.head()}-0")
        expected = "change log: names 1 items that are not in the table: item 'nobody' of domain 'films'"
    (finding,) = examine(redis).findings
    assert not finding.mendable
    assert finding.what.startswith(expected)


class Restless:
    """A store into which somebody else registers whenever it is walked through."""

    def __init__(self, store: CatalogueStore, times: int) -> None:
        self._store = store
        self.times = times
        self._registered = itertools.count()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def rows(self) -> Iterator[list[StoredItem]]:
        if self.times:
            self.times -= 1
            self._store.register([NewItem("films", f"late-{next(self._registered)}", (0, 0), (0,))])
        yield from self._store.rows()


def test_what_changes_meanwhile_is_looked_at_again(store: CatalogueStore) -> None:
    restless: Any = Restless(store, times=2)
    assert examine(restless).findings == ()
    restless.times = 3
    with pytest.raises(StoreUnavailable, match="kept changing"):
        examine(restless)


def test_mending_does_not_touch_what_has_changed_since(store: CatalogueStore) -> None:
    stale = store.totals()
    store.register([NewItem("films", "new", (0, 0), (0,))])
    assert not store.mend(stale, ())
    assert store.totals().items["films"] == 90
    assert examine(store).findings == ()


def test_contents_are_tokenized_anew_and_compared(store: CatalogueStore) -> None:
    store.register([NewItem("films", "x", (3, 4), (2,), "X", '{"brand":"B","categories":["c"],"price":2.5}')])
    asked: list[ItemContent] = []

    def ids_of(domains: Sequence[str], contents: Sequence[ItemContent]) -> Any:
        assert len(domains) == len(contents)
        assert set(domains) == {"films"}
        asked.extend(contents)
        return np.array([(0, 0, 0) if content.title == "back" else (3, 4, 1) for content in contents])

    found = examine(store, ids_of)
    assert (found.compared, found.other_id, found.findings) == (2, 1, ())
    assert ItemContent("X", "B", ("c",), None, 2.5) in asked


def test_a_domain_without_items_is_no_fault_unless_the_store_says_that_it_has_some(redis: RedisStore) -> None:
    redis.register([NewItem("emptied", "a", (5, 5), (0,))])
    redis.delete(ItemKey("emptied", "a"))
    assert examine(redis).findings == ()
    number = redis._keys.number("ghosts", allot=True)
    redis._redis.hset(redis._keys.key("counts"), number, 3)
    redis._redis.hset(redis._keys.key("fingerprints"), number, "0000000000000007")
    said = {finding.what: finding.mendable for finding in examine(redis).findings}
    assert said == {
        "domain 'ghosts': the store counts 3 items, but holds 0": True,
        "domain 'ghosts': the fingerprint is not that of its items": True,
    }
    repair(redis)
    assert examine(redis).findings == ()
