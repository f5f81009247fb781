"""The Redis catalogue on a real cluster, and behind a real Sentinel that fails over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from places import LAYOUT, Place, everything, new, suffixes
from redis_groups import RedisCluster, SentinelGroup, until

from service.catalogue import redis_clients
from service.catalogue.checking import examine
from service.catalogue.opening import open_store, stored_generations
from service.catalogue.records import ItemKey
from service.catalogue.store import CatalogueStore
from service.errors import ConfigError, StoreUnavailable

pytestmark = pytest.mark.usefixtures("few_buckets")
PASSWORD = "se,cr@t"
QUOTED = "se%2Ccr%40t"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    with RedisCluster(tmp_path_factory.mktemp("cluster"), "se-cret") as group:
        yield group


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[SentinelGroup]:
    with SentinelGroup(tmp_path, "se-cret") as group:
        yield group


def try_everything(place: Place) -> None:
    one, two = place.open(), place.open()
    assert suffixes(one, [new("a", title="A", content="{}"), new("b"), new("c", domain="books")]) == [0, 1, 0]
    assert suffixes(two, [new("d"), new("a", title="B", content="{}")]) == [2, 0]
    assert two.delete(ItemKey("films", "b"))
    assert [key.item_id for key in two.changes(0).keys] == ["a", "b", "c", "d", "a", "b"]
    assert set(everything(one)) == {ItemKey("films", "a"), ItemKey("films", "d"), ItemKey("books", "c")}
    (found,) = one.get([ItemKey("films", "a")])
    assert found is not None
    assert (found.title, found.content) == ("B", "{}")
    one.save_checkpoint("x", "7")
    assert two.checkpoint("x") == "7"
    status = two.status()
    assert status.items == {"films": 2, "books": 1}
    assert status.bytes
    assert "cret" not in status.where
    assert examine(one).findings == ()


def test_a_cluster_keeps_every_promise_of_one_server(cluster: RedisCluster) -> None:
    place = Place(cluster.url, None)
    try_everything(place)
    place.close()


def test_generations_spread_over_the_nodes_and_each_stays_on_one(cluster: RedisCluster) -> None:
    before = cluster.keys_of_each()
    places = [Place(cluster.url, None) for _ in range(8)]
    for place in places:
        place.open().register([new(str(number), (number % 7, number % 5)) for number in range(40)])
    names = {generation.bundle for generation in stored_generations(cluster.url)}
    assert {place.name for place in places} <= names
    grown = [after - was for after, was in zip(cluster.keys_of_each(), before, strict=True)]
    assert sum(count > 0 for count in grown) >= 2
    assert examine(places[0].open(seeded=False)).findings == ()
    for place in places:
        place.close()


def test_a_cluster_that_was_away_needs_no_hand(cluster: RedisCluster) -> None:
    place = Place(cluster.url, None)
    store = place.open()
    assert suffixes(store, [new("a")]) == [0]
    cluster.kill()
    with pytest.raises(StoreUnavailable):
        store.head()
    cluster.restart()
    until(lambda: registered(store, "b", 1))
    assert set(everything(store)) == {ItemKey("films", "a"), ItemKey("films", "b")}
    place.close()


def registered(store: CatalogueStore, item_id: str, suffix: int) -> bool:
    """Whether a store takes an item again."""
    try:
        return suffixes(store, [new(item_id)]) == [suffix]
    except StoreUnavailable:
        return False


def test_sentinel_leads_to_the_new_primary(sentinel: SentinelGroup) -> None:
    place = Place(sentinel.url, None)
    try_everything(place)
    store = place.open()
    before = everything(store)
    first, second = sentinel.servers
    until(lambda: store._redis.execute_command("WAIT", 1, 100) == 1)
    first.kill()
    until(lambda: sentinel.primary_port() == second.port)
    until(lambda: registered(store, "after", 3))
    after = everything(store)
    assert after.pop(ItemKey("films", "after"))
    assert after == before
    assert examine(store).findings == ()
    place.close()


@pytest.mark.parametrize(
    "url",
    [
        "redis+cluster://:pass@host:1/3",
        "redis+cluster://:pass@host:1?db=3",
        "redis+cluster://:pass@",
        "redis+cluster://:pass@host:x",
        "redis+sentinel://:pass@host:1",
        "redis+sentinel://:pass@host:1/name?other=1",
        "redis+sentinel://:pass@host:1/name/x",
        "redis+ring://:pass@host:1",
        "redis://:pass@host:1/0?foo=1",
        "redis://:pass@host:1/0?protocol=9",
        "rediss://:pass@host:1?ssl_cert_reqs=wrong",
    ],
)
def test_a_wrong_address_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match="redis") as caught:
        open_store(url, "b", 1, LAYOUT)
    assert "pass@" not in str(caught.value)


def test_a_password_that_reads_as_an_option_is_not_repeated() -> None:
    with pytest.raises(ConfigError, match="must be written as %3F") as caught:
        open_store("redis://h?se-cret=word", "b", 1, LAYOUT)
    assert "cret" not in str(caught.value)


def test_a_cluster_that_does_not_answer_is_unavailable() -> None:
    with pytest.raises(StoreUnavailable, match=r"redis\+cluster://127\.0\.0\.1:1"):
        open_store("redis+cluster://:pass@127.0.0.1:1", "b", 1, LAYOUT)


def test_passwords_come_out_of_the_address_as_they_are() -> None:
    connected = redis_clients.connect(f"redis+sentinel://user:{QUOTED}@[::1],two:7/name/3")
    arguments = connected.client.connection_pool.connection_kwargs
    assert (arguments["username"], arguments["password"], arguments["db"]) == ("user", PASSWORD, 3)
    assert connected.where == "redis+sentinel://[::1],two:7/name/3"
    connected.client.close()
