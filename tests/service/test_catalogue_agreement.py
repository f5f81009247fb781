"""Replicas and their store: followed, compared, healed, and given back what they lost."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from http_server import until
from live_catalogues import LAYOUT, held, key, names, new, opened
from redis_server import RedisServer

from service.catalogue import restoring
from service.catalogue.checking import repair
from service.catalogue.columns import ItemColumns
from service.catalogue.live import Agreement, LiveCatalogue, Reread
from service.catalogue.live_follower import following
from service.catalogue.opening import open_store
from service.catalogue.records import StoredItem, Totals
from service.errors import NotReady, StoreUnavailable


@pytest.mark.parametrize("newcomer", [False, True], ids=["empty", "opened anew"])
def test_a_server_that_lost_everything_gets_it_back_from_memory(own_server: RedisServer, newcomer: bool) -> None:
    """Even if another process has begun to fill it, in another order, and has got further than we had seen."""
    one, two = (LiveCatalogue(opened(own_server.url, "b")) for _ in range(2))
    one.register([new("a", title="A"), new("b"), new("c", (0, 0), "books"), new("d")])
    one.delete(key("b"))
    two.refresh()
    before = held(one)
    one.store._redis.flushall()  # type: ignore[attr-defined]
    if newcomer:
        other = opened(own_server.url, "b")
        other.register([new(f"n{number}", (3, 3), "games") for number in range(3)])
        other.register([new("c", (1, 1), "books")])
        other.register([new(f"n{number}", (2, 2), "music") for number in range(4)])
        other.close()
    else:
        with pytest.raises(NotReady):
            one.register([new("x")])
        assert held(one) == before, "what was recommendable stays so"
    reasons: list[Reread] = []
    for live in (one, two, one):
        live.refresh(reasons.append)
    assert reasons == [Reread.LOST, Reread.LOST]
    assert held(one) == held(two)
    lost = {key("c", "books")} if newcomer else set()
    assert {name: way for name, way in before.items() if name not in lost}.items() <= held(one).items()
    assert len(held(one)) == len(before) + 7 * newcomer
    assert one.lookup([key("a")])[0].title == "A"  # type: ignore[union-attr]
    assert [live.compare() for live in (one, two)] == [Agreement.SAME, Agreement.SAME]
    assert one.register([new("e")]).values.tolist() == [[1, 2, 2, 3]], "above every ID in memory"
    one.store.close()
    two.store.close()


def test_items_are_put_back_in_the_order_of_their_ids(own_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """In memory an item that was deleted and came back stands behind others of its group."""
    monkeypatch.setattr(restoring, "PUT_BACK_ITEMS", 2)
    live = LiveCatalogue(opened(own_server.url, "b"))
    live.register([new("a"), new("b"), new("c"), new("d", (0, 0)), new("e", (3, 3))])
    live.delete(key("a"))
    live.register([new("a")])
    before = held(live)
    live.store._redis.flushall()  # type: ignore[attr-defined]
    live.refresh()
    assert held(live) == before
    assert len(before) == 5
    live.store.close()


@contextmanager
def set_back(server: RedisServer) -> Iterator[None]:
    """A server that afterwards is as it was before the block, as a replica that lagged is after a failover."""
    with closing(redis.Redis.from_url(server.url)) as client:
        older = {name: client.dump(name) for name in client.keys("*")}
        yield
        client.flushall()
        for name, value in older.items():
            client.restore(name, 0, value)


def test_a_server_set_back_to_an_older_state_gets_back_what_it_lacks(own_server: RedisServer) -> None:
    live = LiveCatalogue(opened(own_server.url, "b"))
    live.register([new("a"), new("b", domain="books")])
    live.refresh()
    with set_back(own_server):
        live.register([new("c"), new("d", (3, 3)), new("g", domain="games")])
        live.delete(key("a"))
        live.refresh()
        before = held(live)
    reasons: list[Reread] = []
    live.refresh(reasons.append)
    assert reasons == [Reread.LOST]
    assert before.items() <= held(live).items()
    assert set(held(live)) - set(before) == {key("a")}, "that it was deleted is known to nobody any more"
    assert live.compare() is Agreement.SAME
    live.store.close()


@pytest.mark.parametrize("others", [1, 2, 3])
def test_no_id_is_given_twice_by_a_replica_that_knows_of_it(own_server: RedisServer, others: int) -> None:
    """The first that it asks of a server that was set back is a change, and others have written as much as was lost."""
    live, other = (LiveCatalogue(opened(own_server.url, "b")) for _ in range(2))
    other.register([new("s")])
    with set_back(own_server):
        published = live.register([new("a", (2, 0))]).values.tolist()
    for number in range(others):
        other.register([new(f"z{number}", (3, number))])
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="set back"):
            live.register([new("c", (2, 0))])
        with pytest.raises(StoreUnavailable, match="set back"):
            live.delete(key("s"))
    live.refresh()
    assert live.register([new("a", (2, 0)), new("c", (2, 0))]).values[:, -1].tolist() == [0, 1]
    assert live.register([new("a", (2, 0))]).values.tolist() == published
    assert live.compare() is Agreement.SAME
    for each in (live, other):
        each.store.close()


def test_nothing_is_changed_while_putting_back_is_due(own_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    live = LiveCatalogue(opened(own_server.url, "b"))
    live.register([new("a"), new("b")])
    live.store._redis.flushall()  # type: ignore[attr-defined]
    other = opened(own_server.url, "b")  # Complete, and open to registrations.
    with monkeypatch.context() as patched:
        patched.setattr(live.store, "restore", lambda *_: (_ for _ in ()).throw(StoreUnavailable("too slow")))
        with pytest.raises(StoreUnavailable, match="too slow"):
            live.refresh()
    for change in (lambda: live.register([new("c")]), lambda: live.delete(key("a"))):
        with pytest.raises(StoreUnavailable, match="put back first"):
            change()
    live.refresh()
    assert live.register([new("a"), new("b"), new("c")]).values[:, -1].tolist() == [0, 1, 2]
    for store in (live.store, other):
        store.close()


def test_a_server_in_another_life_is_told_apart_before_any_change_was_seen(own_server: RedisServer) -> None:
    """The bundle's own items come without changes, and domains may have the same numbers once more."""
    store = open_store(own_server.url, "b", 1, LAYOUT)
    store.seed([StoredItem("films", "s", int(LAYOUT.pack(np.array([[1, 2, 2, 0]], dtype=np.int32))[0]))])
    store.finish_seed()
    live = LiveCatalogue(store)
    store._redis.flushall()  # type: ignore[attr-defined]
    other = opened(own_server.url, "b")
    other.register([new("x", (3, 3))])
    for change in (lambda: live.register([new("c")]), lambda: live.delete(key("s"))):
        with pytest.raises(NotReady):
            change()
    live.refresh()
    assert live.register([new("c")]).values[:, -1].tolist() == [1]
    assert set(held(live)) == {key("s"), key("x"), key("c")}
    for each in (store, other):
        each.close()


def test_what_is_said_of_a_store_is_said_to_no_other(own_server: RedisServer) -> None:
    """A checkpoint would let work go on behind what was lost, and an empty catalogue would be called complete."""
    store = opened(own_server.url, "b")
    store.register([new("a")])
    with set_back(own_server):
        store.register([new("b")])
    with pytest.raises(StoreUnavailable, match="set back"):
        store.save_checkpoint("work", "2 items")
    store._redis.flushall()  # type: ignore[attr-defined]
    for say in (store.finish_seed, lambda: store.save_checkpoint("work", "2 items")):
        with pytest.raises(NotReady):
            say()
    late = open_store(own_server.url, "b", 1, store.layout)
    assert (late.seeded(), late.checkpoint("work")) == (False, None)
    for each in (store, late):
        each.close()


@pytest.mark.parametrize("seen", [True, False], ids=["seen in the log", "only acknowledged"])
def test_an_index_of_changes_that_a_store_has_lost_is_not_used(
    own_server: RedisServer, tmp_path: Path, seen: bool
) -> None:
    live, other = (LiveCatalogue(opened(own_server.url, "b"), *folder) for folder in ([tmp_path / "index"], []))
    live.register([new("a")])
    other.refresh()
    with set_back(own_server):
        live.register([new("b"), new("c", (3, 3))])
        if seen:
            live.refresh()
        live.save()
        live.store.close()
    other.register([new("y", (0, 0)), new("z"), new("c", (3, 2)), new("x", (3, 3))])
    started = LiveCatalogue(opened(own_server.url, "b"), tmp_path / "index")
    assert not seen or "another item" in str(started.rebuilt)
    assert held(started) == held(other)
    assert started.compare() is Agreement.SAME
    for each in (started, other):
        each.store.close()


def test_nothing_is_saved_as_a_stores_that_has_lost_it(own_server: RedisServer, tmp_path: Path) -> None:
    live, other = (LiveCatalogue(opened(own_server.url, "b"), *folder) for folder in ([tmp_path / "index"], []))
    live.register([new("a")])
    other.refresh()
    with set_back(own_server):
        live.register([new("b"), new("c", (3, 3))])
        live.refresh()
    other.register([new("y", (0, 0)), new("z"), new("x", (3, 3))])
    live.save()
    live.store.close()
    started = LiveCatalogue(opened(own_server.url, "b"), tmp_path / "index")
    assert started.rebuilt is None
    assert held(started) == held(other)
    for each in (started, other):
        each.store.close()


@pytest.mark.parametrize("seen", [True, False], ids=["seen in the log", "only acknowledged"])
@pytest.mark.parametrize("others", [0, 1, 2, 3])
def test_a_server_set_back_is_found_out_however_far_others_have_brought_it_since(
    own_server: RedisServer, seen: bool, others: int
) -> None:
    """Though the log is whole again, and numbers of changes and of domains have been given away a second time."""
    live, other = (LiveCatalogue(opened(own_server.url, "b")) for _ in range(2))
    live.register([new("a"), new("b", domain="books")])
    for each in (live, other):
        each.refresh()
    with set_back(own_server):
        live.register([new("g", domain="games"), new("h", (2, 2), "games")])
        if seen:
            live.refresh()
        before = held(live)
    for number in range(others):
        other.register([new(f"m{number}", domain="music")])
    with pytest.raises(StoreUnavailable, match="set back"):
        live.register([new("i", (2, 2), "games")])
    reasons: list[Reread] = []
    live.refresh(reasons.append)
    assert reasons == [Reread.LOST]
    other.refresh()
    late = LiveCatalogue(opened(own_server.url, "b"))
    assert held(live) == held(other) == held(late)
    assert before.items() <= held(live).items()
    assert len(held(live)) == len(before) + others
    assert live.register([new("i", (2, 2), "games")]).values[0].tolist()[-1] == 1
    assert [each.compare() for each in (live, other, late)] == [Agreement.SAME] * 3
    for each in (live, other, late):
        each.store.close()


@pytest.mark.parametrize("seen", [True, False], ids=["seen in the log", "only acknowledged"])
def test_another_change_of_the_same_item_is_another_change(own_server: RedisServer, seen: bool) -> None:
    """Where one item is renewed again and again, it may get the number that its change had before the loss."""
    live, other = (LiveCatalogue(opened(own_server.url, "b")) for _ in range(2))
    live.register([new("often", title="0")])
    other.refresh()
    with set_back(own_server):
        live.register([new("a", (2, 2)), new("often", title="1")])
        if seen:
            live.refresh()
    other.register([new("m", (3, 3)), new("often", title="2")])
    with pytest.raises(StoreUnavailable, match="set back"):
        live.register([new("b")])
    reasons: list[Reread] = []
    live.refresh(reasons.append)
    other.refresh()
    assert reasons == [Reread.LOST]
    assert held(live).keys() == held(other).keys() == {key("often"), key("a"), key("m")}
    assert live.compare() is Agreement.SAME
    for each in (live, other):
        each.store.close()


def test_a_replica_that_only_followed_finds_out_too(own_server: RedisServer) -> None:
    """It has changed nothing itself; what it saw in the log is what it knows the server by."""
    live, other = (LiveCatalogue(opened(own_server.url, "b")) for _ in range(2))
    with set_back(own_server):
        other.register([new("b")])
        live.refresh()
    late = LiveCatalogue(opened(own_server.url, "b"))
    late.register([new("z", (3, 3))])
    with pytest.raises(StoreUnavailable, match="set back"):
        live.register([new("c")])
    live.refresh()
    assert live.register([new("c")]).values[:, -1].tolist() == [1]
    assert set(held(live)) == {key("b"), key("z"), key("c")}
    for each in (live, other, late):
        each.store.close()


def test_a_number_of_a_domain_that_was_given_to_another_is_not_used(
    own_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A domain was numbered, its first item was not stored, and the server lost the number: no change is missing."""
    live, other = (LiveCatalogue(opened(own_server.url, "b")) for _ in range(2))
    live.register([new("a")])

    def broken(*_: object) -> None:
        raise redis.ConnectionError("the connection broke")

    with set_back(own_server), monkeypatch.context() as patched:
        patched.setattr(live.store._server, "run", broken)  # type: ignore[attr-defined]
        with pytest.raises(StoreUnavailable, match="broke"):
            live.register([new("g", domain="games")])
    other.register([new("m", domain="music")])
    with pytest.raises(StoreUnavailable, match="set back"):
        live.register([new("g", domain="games")])
    live.register([new("g", domain="games")])
    for each in (live, other):
        each.refresh()
        assert set(held(each)) == {key("a"), key("m", "music"), key("g", "games")}
        assert each.compare() is Agreement.SAME
    for each in (live, other):
        each.store.close()


def emptied_before(live: LiveCatalogue, call: str, monkeypatch: pytest.MonkeyPatch, times: int = 1) -> None:
    """Let the store lose everything just before it is next asked for something."""
    real, left = getattr(live.store, call), [None] * times

    def emptied(*arguments: Any) -> Any:
        if left:
            left.pop()
            live.store._redis.flushall()  # type: ignore[attr-defined]
        return real(*arguments)

    monkeypatch.setattr(live.store, call, emptied)


@pytest.mark.parametrize("call", ["get", "columns"])
@pytest.mark.parametrize("times", [1, 2])
def test_what_is_lost_while_news_is_fetched_was_not_deleted(
    own_server: RedisServer, monkeypatch: pytest.MonkeyPatch, call: str, times: int
) -> None:
    live, other = (LiveCatalogue(opened(own_server.url, "b")) for _ in range(2))
    live.register([new("a"), new("b", domain="books")])
    other.register([new("c", (0, 0))])
    live.refresh()
    before = held(live)
    live.register([new("d", (3, 3))])
    if call == "columns":
        # Behind what the log still tells, so that everything is read anew.
        live.store._redis.delete(live.store._keys.key("log"))  # type: ignore[attr-defined]
    emptied_before(live, call, monkeypatch, times)
    reasons: list[Reread] = []
    live.refresh(reasons.append)
    assert reasons == [Reread.LOST]
    assert held(live) == {**before, key("d"): held(live)[key("d")]}
    assert live.compare() is Agreement.SAME
    for catalogue in (live, other):
        catalogue.store.close()


def test_what_is_lost_while_replicas_compare_was_not_deleted(
    own_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even twice: after it was filled from memory a store is at change 0, as an empty one is."""
    live = LiveCatalogue(opened(own_server.url, "b"))
    live.register([new("a"), new("b", domain="books")])
    before = held(live)
    for call in ("get", "totals", "columns", "totals"):
        emptied_before(live, call, monkeypatch)
        assert live.compare() is Agreement.SAME
        assert held(live) == before
    live.store.close()


def test_a_catalogue_that_is_lost_while_it_is_read_at_the_start_is_not_put_back_in_part(
    own_server: RedisServer,
) -> None:
    store = opened(own_server.url, "b")
    LiveCatalogue(store).register([new("a"), new("b", domain="books")])
    real = store.columns

    def emptied() -> Iterator[ItemColumns]:
        yield from itertools.islice(real(), 1)
        store._redis.flushall()  # type: ignore[attr-defined]

    store.columns = emptied  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable, match="start again"):
        LiveCatalogue(store)
    assert not store.seeded()
    store.close()


def test_putting_back_that_failed_is_done_again(own_server: RedisServer) -> None:
    live = LiveCatalogue(opened(own_server.url, "b"))
    live.register([new("a"), new("b", (0, 0))])
    client = live.store._redis  # type: ignore[attr-defined]
    client.flushall()
    client.config_set("maxmemory", 1)
    with pytest.raises(StoreUnavailable):
        live.refresh()
    assert set(held(live)) == {key("a"), key("b")}
    client.config_set("maxmemory", 0)
    # The new life has been begun by now, and others may use it.
    other = opened(own_server.url, "b")
    other.register([new("c", (2, 2)), new("d", (2, 2)), new("e", (2, 2))])
    live.refresh()
    assert {name.item_id for name in held(live)} == set("abcde")
    other.close()
    live.store.close()


def test_replicas_prove_that_they_agree(both_urls: str) -> None:
    name = next(names)
    one, two = (LiveCatalogue(opened(both_urls, name)) for _ in range(2))
    one.register([new("a"), new("b"), new("c", domain="books")])
    two.delete(key("b"))
    assert [live.compare() for live in (one, two)] == [Agreement.SAME, Agreement.SAME]
    assert held(one) == held(two)
    # As if a change had been missed, a wrong ID kept, or an item invented.
    for wrong in (
        {key("a"): None},
        {key("a"): StoredItem("films", "a", 8)},
        {key("x"): StoredItem("films", "x", 16)},
        {key("a"): None, key("x"): StoredItem("films", "x", 16)},
        {key("c", "books"): None},
    ):
        one._apply(wrong)
        assert held(one) != held(two)
        reasons: list[Reread] = []
        assert one.compare(reasons.append) is Agreement.HEALED
        assert reasons == [Reread.DIFFERENT]
        assert held(one) == held(two)
        assert one.compare() is Agreement.SAME
    for live in (one, two):
        live.store.close()


def test_a_store_whose_own_fingerprint_is_wrong_is_not_read_anew_for_ever(both_urls: str) -> None:
    live = LiveCatalogue(opened(both_urls, next(names)))
    live.register([new("a"), new("b")])
    totals = live.store.totals()
    assert live.store.mend(replace(totals, fingerprints={"films": 7}), ())
    reasons: list[Reread] = []
    assert [live.compare(reasons.append) for _ in range(3)] == [Agreement.UNPROVEN] * 3
    assert reasons == [Reread.DIFFERENT]
    assert set(held(live)) == {key("a"), key("b")}
    repair(live.store)
    assert live.compare() is Agreement.SAME
    live._apply({key("a"): None})
    assert live.compare() is Agreement.HEALED
    live.store.close()


def test_what_changed_while_everything_was_read_anew_is_no_fault_of_the_store(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, other = LiveCatalogue(opened(url, "b")), opened(url, "b")
    live.register([new("a"), new("b")])
    columns = live.store.columns

    def overtaken() -> Iterator[ItemColumns]:
        other.register([new("c", (3, 3))])
        return columns()

    live.refresh()
    monkeypatch.setattr(live.store, "columns", overtaken)
    live._apply({key("a"): None})
    assert live.compare() is Agreement.HEALED
    assert live.compare() is Agreement.SAME
    assert set(held(live)) == {key("a"), key("b"), key("c")}
    other.close()
    live.store.close()


def test_a_comparison_waits_for_a_moment_without_changes(url: str) -> None:
    live = LiveCatalogue(opened(url, "b"))
    other = opened(url, "b")
    real = live.store.totals
    numbers = itertools.count()

    def disturbed() -> Totals:
        number = next(numbers)
        other.register([new(f"i{number}", (number % 4, number // 4 % 4))])
        return real()

    live.store.totals = disturbed  # type: ignore[method-assign]
    assert live.compare() is Agreement.BUSY
    live.store.totals = real  # type: ignore[method-assign]
    assert live.compare() is Agreement.SAME
    other.close()
    live.store.close()


def test_the_follower_compares_and_outlives_any_error(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    live = LiveCatalogue(opened(url, "b"))
    live.register([new("a")])
    failures: list[Exception] = []
    agreements: list[Agreement] = []
    answers: list[None] = []
    with following(
        live,
        0.001,
        failures.append,
        answered=lambda: answers.append(None),
        compare_seconds=0.005,
        compared=agreements.append,
    ):
        until(lambda: len(agreements) > 2)
        with monkeypatch.context() as patch:
            patch.setattr(LiveCatalogue, "refresh", lambda *_: 1 / 0)
            until(lambda: failures)
        done = len(answers)
        until(lambda: len(answers) > done)
    assert isinstance(failures[0], ZeroDivisionError)
    assert set(agreements) == {Agreement.SAME}
    live.store.close()


def test_the_follower_brings_changes_and_outlives_a_server_that_is_down(own_server: RedisServer) -> None:
    one, two = LiveCatalogue(opened(own_server.url, "b")), LiveCatalogue(opened(own_server.url, "b"))
    failures: list[Exception] = []
    with following(two, 0.01, failures.append):
        one.register([new("a")])
        until(lambda: two.domains() == {"films": 1})
        own_server.kill()
        with pytest.raises(StoreUnavailable):
            one.register([new("b")])
        until(lambda: failures)
        assert two.lookup([key("a")])[0] is not None
        own_server.start()
        one.register([new("c")])
        until(lambda: two.domains() == {"films": 2})
    assert isinstance(failures[0], StoreUnavailable)
    one.register([new("d")])
    assert two.domains() == {"films": 2}, "the follower has ended"
    one.store.close()
    two.store.close()
