"""The live catalogue against plain dictionaries, over several replicas, and while searches and changes collide."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from http_server import PATIENCE_SECONDS, until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live_catalogues import LAYOUT, key, names, new, opened, reachable

from service.catalogue import embedded
from service.catalogue import live as live_module
from service.catalogue.columns import ItemColumns
from service.catalogue.live import Agreement, LiveCatalogue
from service.catalogue.locking import Readers
from service.catalogue.records import ItemKey, StoredItem
from service.catalogue.table import CatalogueEntry, CatalogueTable
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


def test_a_domain_can_be_searched_as_soon_as_it_is_counted(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that came while a domain's first item was added, and knew its count already, found no such domain."""
    live, seen = LiveCatalogue(opened(url, "b")), []
    add = CatalogueTable.add

    def add_and_look(table: CatalogueTable, items: ItemColumns) -> range:
        rows = add(table, items)
        with live.searching() as view:
            seen.append({domain: len(view.roots([domain])) for domain in live.domains()})
        return rows

    monkeypatch.setattr(CatalogueTable, "add", add_and_look)
    live.register([new("a"), new("b", domain="books")])
    assert seen == [{"films": 1, "books": 1}]
    with live.searching() as view:
        assert set(reachable(view, ["films", "books"])) == {key("a"), key("b", "books")}


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


def test_a_change_that_is_refused_is_refused_again(tmp_path: Path) -> None:
    # A store that names another item for an ID is the store's fault; what a replica has must stay as it was.
    store = opened(f"embedded:{tmp_path}", "b")
    live = LiveCatalogue(store)
    live.register([new("a"), new("gone")])
    (item,) = store.get([key("a")])
    assert item is not None
    state = live._state
    wrong = {key("gone"): None, key("z"): StoredItem("films", "z", item.packed)}
    for _ in range(2):
        with pytest.raises(InvalidInput):
            state.apply(wrong)
        assert state.table.counts() == {"films": 2}
        assert live.lookup([key("z")]) == [None]
        with live.searching() as view:
            assert set(reachable(view, ["films"])) == {key("a"), key("gone")}


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
        st.sampled_from(["register", "delete", "refresh", "tidy", "reopen"]),
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


@pytest.fixture(autouse=True)
def _any_size_is_tidied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "LEAST_TIDIED_BYTES", 0)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes)
def test_replicas_converge_on_the_store_after_any_changes(
    both_urls: str, tmp_path: Path, history: list[tuple[str, int, list[tuple[str, str, int, str | None]]]]
) -> None:
    name = next(names)
    stores = [opened(both_urls, name), opened(both_urls, name)]
    folders = [tmp_path / f"{name}-{number}" for number in range(2)]
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
        elif what == "tidy":
            replicas[replica].tidy(most_slack=-1)
        elif what == "reopen":
            # The first time nothing is saved; from then on what was saved, and maybe changed since.
            replicas[replica] = LiveCatalogue(stores[replica], folders[replica])
            if len(rows) % 2:
                replicas[replica].save()
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
            assert {name: entry.title for name in found for entry in live.lookup([name]) if entry} == (titles)
        assert live.domains() == {d: sum(name.domain == d for name in titles) for d in domains}
        assert live.compare() is Agreement.SAME
    for store in stores:
        store.close()


def test_searches_and_changes_do_not_wait_for_each_other(url: str) -> None:
    live = LiveCatalogue(opened(url, "b"))
    live.register([new("a"), new("b", (0, 0))])
    with live.searching() as view:
        live.register([new("c", (0, 0)), new("a", title="A")])
        assert set(reachable(view, ["films"])) == {key("a"), key("b")}, "a batch sees one state"
        with live.searching() as later:
            assert set(reachable(later, ["films"])) == {key("a"), key("b"), key("c")}


def test_a_deletion_waits_for_the_searches_before_it_alone(url: str) -> None:
    live = LiveCatalogue(opened(url, "b"))
    live.register([new("a"), new("b"), new("c", (0, 0))])
    deleted = threading.Event()

    def delete() -> None:
        live.delete(key("a"))
        deleted.set()

    with live.searching() as view:
        writer = threading.Thread(target=delete)
        writer.start()
        until(lambda: live._readers.waiting == 1)
        assert not deleted.is_set()
        assert live.lookup([key("a")]) == [None]
        assert set(reachable(view, ["films"])) == {key("a"), key("b"), key("c", "films")}
        assert set(reachable(view, ["films"], view.blocked([key("a")]).tolist())) == {key("b"), key("c")}
        assert set(reachable(view.restricted([key("a"), key("c")]), ["films"])) == {key("a"), key("c")}
        live.register([new("d", (0, 0))])
        with live.searching() as later:
            assert set(reachable(later, ["films"])) == {key("b"), key("c"), key("d")}
            assert set(reachable(later.restricted([key("a"), key("c")]), ["films"])) == {key("c")}
        assert not deleted.is_set()
    writer.join(PATIENCE_SECONDS)
    assert deleted.is_set()


def test_readers_are_counted_by_when_they_came() -> None:
    readers, told = Readers(), []
    readers.after_earlier(lambda: told.append("nobody read"))
    assert told == ["nobody read"]
    with readers.reading():
        with readers.reading():
            readers.after_earlier(lambda: told.append("two read"))
        readers.after_earlier(lambda: told.append("one read"))
        assert (told, readers.waiting) == (["nobody read"], 2)
        later = readers.reading()
        later.__enter__()
    assert told == ["nobody read", "two read", "one read"], "it waited for a reader that came later"
    assert readers.waiting == 0
    later.__exit__(None, None, None)


def test_searches_that_overlap_do_not_starve_changes(url: str) -> None:
    """Two searchers hand over to each other so that one always runs; changes still get through."""
    live = LiveCatalogue(opened(url, "b"))
    live.register([new("a")])
    stop = threading.Event()
    inside = threading.Barrier(2)

    def search() -> None:
        while not stop.is_set():
            with live.searching() as view:
                reachable(view, ["films"])
                # Both are inside at once here, unless the other one has ended.
                try:
                    inside.wait(0.01)
                except threading.BrokenBarrierError:
                    inside.reset()

    searchers = [threading.Thread(target=search) for _ in range(2)]
    for thread in searchers:
        thread.start()

    def change() -> None:
        for number in range(12):
            live.register([new(f"i{number}", (number % 4, number // 4))])
            live.delete(key(f"i{number - 3}"))

    writer = threading.Thread(target=change)
    writer.start()
    writer.join(PATIENCE_SECONDS)
    finished = not writer.is_alive()
    stop.set()
    for thread in searchers:
        thread.join(PATIENCE_SECONDS)
    assert finished
    assert live.domains() == {"films": 4}


def test_a_search_that_fails_lets_go_of_the_catalogue(url: str) -> None:
    live = LiveCatalogue(opened(url, "b"))
    live.register([new("a")])
    with pytest.raises(UnknownDomain), live.searching() as view:
        view.roots(["x"])
    assert live.delete(key("a")), "nothing is left to wait for"


def test_titles_differ_between_none_and_empty(both_urls: str) -> None:
    live = LiveCatalogue(opened(both_urls, next(names)))
    live.register([new("a", title=""), new("b")])
    live.refresh()
    assert [entry and entry.title for entry in live.lookup([key("a"), key("b")])] == ["", None]
    live.store.close()
