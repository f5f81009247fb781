"""The live catalogue against plain dictionaries, over several replicas, and while searches and changes collide."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live_catalogues import LAYOUT, WAIT, key, names, new, opened, reachable, until

from service.catalogue import embedded
from service.catalogue.live import CatalogueEntry, LiveCatalogue
from service.catalogue.locking import ReadWriteLock
from service.catalogue.store import ItemKey
from service.errors import InvalidInput, UnknownDomain


def test_what_is_registered_can_be_found_when_the_call_returns(url: str) -> None:
    live = LiveCatalogue(opened(url, "b"))
    registered = live.register([new("a", title="A"), new("b"), new("c", (0, 0), "books")])
    assert registered.values[:, -1].tolist() == [0, 1, 0]
    assert live.domains() == {"films": 2, "books": 1}
    a, nothing, c = live.lookup([key("a"), key("x"), key("c", "books")])
    assert isinstance(a, CatalogueEntry)
    assert isinstance(c, CatalogueEntry)
    assert nothing is None
    assert (a.title, a.values.tolist(), c.domain, c.values.tolist()) == ("A", [1, 2, 2, 0], "books", [0, 0, 2, 0])
    with live.searching() as view:
        assert reachable(view, ["films"]) == {
            key("a"): tuple(LAYOUT.tokens(np.array([1, 2, 2, 0]))),
            key("b"): tuple(LAYOUT.tokens(np.array([1, 2, 2, 1]))),
        }
        assert set(reachable(view, ["films", "books", "films"])) == {key("a"), key("b"), key("c", "books")}
        assert view.item(a.ordinal).item_id == "a"


def test_a_refused_item_is_not_found(url: str) -> None:
    live = LiveCatalogue(opened(url, "b"))
    registered = live.register([new(str(number)) for number in range(5)])
    assert registered.refused.tolist() == [False] * 4 + [True]
    assert live.lookup([key("4")]) == [None]
    assert live.domains() == {"films": 4}


def test_a_wrong_item_changes_nothing(url: str) -> None:
    live = LiveCatalogue(opened(url, "b"))
    with pytest.raises(InvalidInput):
        live.register([new("a"), new("b", (9, 9))])
    assert (live.domains(), live.refresh()) == ({}, 0)


def test_deleting_takes_an_item_out_and_registering_brings_it_back(url: str) -> None:
    live = LiveCatalogue(opened(url, "b"))
    live.register([new("a"), new("b")])
    (before,) = live.lookup([key("b")])
    assert live.delete(key("b"))
    assert not live.delete(key("b"))
    assert not live.delete(key("b", "nowhere"))
    assert live.domains() == {"films": 1}
    with live.searching() as view:
        assert set(reachable(view, ["films"])) == {key("a")}
    live.register([new("b", (3, 3))])
    (after,) = live.lookup([key("b")])
    assert before is not None
    assert after is not None
    assert after.values.tolist() == before.values.tolist() == [1, 2, 2, 1]
    assert after.ordinal != before.ordinal, "a search that is under way may still hold the old one"


def test_an_emptied_domain_leads_nowhere_and_an_unknown_one_is_an_error(url: str) -> None:
    live = LiveCatalogue(opened(url, "b"))
    live.register([new("a"), new("c", domain="books")])
    live.delete(key("a"))
    assert live.domains() == {"books": 1}
    with live.searching() as view:
        assert reachable(view, ["films"]) == {}
        with pytest.raises(UnknownDomain, match=r"'music' .*books.*films"):
            view.roots(["music"])


def test_restricting_shows_the_named_items_alone(url: str) -> None:
    live = LiveCatalogue(opened(url, "b"))
    live.register([new(str(number), (number % 4, number % 3), "pq"[number % 2]) for number in range(20)])
    with live.searching() as view:
        narrow = view.restricted([key("3", "q"), key("4", "p"), key("3", "q"), key("4", "q"), key("x", "none")])
        whole = reachable(view, ["p", "q"])
        assert reachable(narrow, ["p", "q"]) == {
            name: way for name, way in whole.items() if name in {key("3", "q"), key("4", "p")}
        }
        assert set(reachable(narrow, ["p"])) == {key("4", "p")}
        assert reachable(narrow, ["p", "q"], narrow.blocked([key("4", "p")]).tolist()).keys() == {key("3", "q")}
        assert reachable(view.restricted([]), ["p", "q"]) == {}


def test_blocking_cuts_off_exactly_the_named_items(url: str) -> None:
    live = LiveCatalogue(opened(url, "b"))
    live.register([new(str(number), (number % 4, number % 3), "pq"[number % 2]) for number in range(20)])
    with live.searching() as view:
        everything = set(reachable(view, ["p", "q"]))
        cut = [name for name in sorted(everything) if name.domain == "p"] + [
            key("3", "q"),
            key("x", "q"),
            key("x", "n"),
        ]
        edges = view.blocked(cut)
        assert edges.dtype == np.int32
        assert set(reachable(view, ["p", "q"], edges.tolist())) == everything - set(cut)
        assert view.blocked([]).tolist() == []


def test_replicas_follow_each_other(url: str) -> None:
    one, two = LiveCatalogue(opened(url, "b")), LiveCatalogue(opened(url, "b"))
    one.register([new("a", title="A"), new("b")])
    assert two.domains() == {}
    assert two.refresh() == 2
    assert two.refresh() == 0
    two.delete(key("b"))
    two.register([new("a", title="renamed"), new("c", domain="books")])
    assert one.refresh() == 2 + 3, "its own changes are in the log, too"
    for live in (one, two):
        (a,) = live.lookup([key("a")])
        assert a is not None
        assert a.title == "renamed"
        assert live.domains() == {"films": 1, "books": 1}


def test_a_replica_that_fell_behind_the_log_reads_everything_anew(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "CHANGES_KEPT", 3)
    one, two = LiveCatalogue(opened(url, "b")), LiveCatalogue(opened(url, "b"))
    two.register([new("gone", (3, 3))])
    one.register([new(str(number), (number % 4, number % 3)) for number in range(10)])
    one.delete(key("gone"))
    assert two.refresh() == 1
    with one.searching() as first, two.searching() as second:
        assert reachable(first, ["films"]) == reachable(second, ["films"])
        assert len(reachable(first, ["films"])) == 10
    one.register([new("next")])
    assert two.refresh() == 1
    assert two.domains() == {"films": 11}


changes = st.lists(
    st.tuples(
        st.sampled_from(["register", "delete", "refresh"]),
        st.integers(0, 1),
        st.lists(
            st.tuples(
                st.sampled_from("pq"), st.sampled_from("abcdef"), st.integers(0, 1), st.sampled_from([None, "x", "y"])
            ),
            max_size=5,
        ),
    ),
    max_size=15,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes)
def test_replicas_converge_on_the_store_after_any_changes(
    both_urls: str, history: list[tuple[str, int, list[tuple[str, str, int, str | None]]]]
) -> None:
    name = next(names)
    stores = [opened(both_urls, name), opened(both_urls, name)]
    replicas = [LiveCatalogue(store) for store in stores]
    titles: dict[ItemKey, str | None] = {}
    for what, replica, rows in history:
        if what == "register":
            refused = replicas[replica].register([new(i, (c, c), d, title) for d, i, c, title in rows]).refused
            titles.update(
                {key(i, d): title for (d, i, _, title), no in zip(rows, refused.tolist(), strict=True) if not no}
            )
            for d, i, *_ in rows:
                assert (replicas[replica].lookup([key(i, d)])[0] is not None) == (key(i, d) in titles)
        elif what == "delete":
            for d, i, *_ in rows:
                assert replicas[replica].delete(key(i, d)) == (key(i, d) in titles)
                titles.pop(key(i, d), None)
        else:
            replicas[replica].refresh()
    for live in replicas:
        live.refresh()
    fresh = LiveCatalogue(stores[0])
    for live in (*replicas, fresh):
        domains = sorted(live.domains())
        with live.searching() as view, fresh.searching() as rebuilt:
            found = reachable(view, domains)
            assert found == reachable(rebuilt, domains)
            assert view.arrays.fanout == rebuilt.arrays.fanout
            assert {
                name: view.item(entry.ordinal).title for name in found for entry in live.lookup([name]) if entry
            } == (titles)
        assert live.domains() == {d: sum(name.domain == d for name in titles) for d in domains}
    for store in stores:
        store.close()


def test_changes_wait_for_a_search_and_searches_wait_for_changes(url: str) -> None:
    live = LiveCatalogue(opened(url, "b"))
    live.register([new("a")])
    registered = threading.Event()
    later: list[set[ItemKey]] = []

    def register() -> None:
        live.register([new("b")])
        registered.set()

    def search() -> None:
        with live.searching() as view:
            later.append(set(reachable(view, ["films"])))

    with live.searching() as view:
        before = view.arrays.edge_token.copy()
        writer = threading.Thread(target=register)
        writer.start()
        until(lambda: live._lock._writers_waiting == 1)
        reader = threading.Thread(target=search)
        reader.start()
        assert not registered.is_set()
        assert (view.arrays.edge_token == before).all()
        assert set(reachable(view, ["films"])) == {key("a")}
        assert live.lookup([key("a")])[0] is not None, "looking up waits for nobody"
    writer.join(WAIT)
    reader.join(WAIT)
    assert registered.is_set()
    assert later == [{key("a"), key("b")}], "a search that came after the change overtook it"


def test_searches_that_overlap_do_not_starve_a_registration(url: str) -> None:
    """Two searchers hand over to each other so that one always runs; a registration still gets through."""
    live = LiveCatalogue(opened(url, "b"))
    live.register([new("a")])
    stop = threading.Event()
    inside = threading.Barrier(2)

    def search() -> None:
        while not stop.is_set():
            with live.searching() as view:
                reachable(view, ["films"])
                # Both are inside at once here unless a writer waits, in which case the one that is in gives up.
                try:
                    inside.wait(0.01)
                except threading.BrokenBarrierError:
                    inside.reset()

    searchers = [threading.Thread(target=search) for _ in range(2)]
    for thread in searchers:
        thread.start()
    writer = threading.Thread(target=lambda: [live.register([new(f"i{n}", (n % 4, n // 4))]) for n in range(12)])
    writer.start()
    writer.join(WAIT)
    finished = not writer.is_alive()
    stop.set()
    for thread in searchers:
        thread.join(WAIT)
    assert finished
    assert live.domains() == {"films": 13}


def test_a_search_that_fails_lets_go_of_the_catalogue(url: str) -> None:
    live = LiveCatalogue(opened(url, "b"))
    live.register([new("a")])
    with pytest.raises(UnknownDomain), live.searching() as view:
        view.roots(["x"])
    live.register([new("b")])
    lock = ReadWriteLock()
    with pytest.raises(RuntimeError), lock.writing():
        raise RuntimeError
    with lock.reading(), lock.reading():
        pass


def test_titles_differ_between_none_and_empty(both_urls: str) -> None:
    live = LiveCatalogue(opened(both_urls, next(names)))
    live.register([new("a", title=""), new("b")])
    live.refresh()
    assert [entry and entry.title for entry in live.lookup([key("a"), key("b")])] == ["", None]
    live.store.close()
