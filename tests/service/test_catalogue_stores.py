"""One suite that every catalogue store passes: SQLite in a folder, and a real server that speaks Redis' protocol."""

from __future__ import annotations

import functools
import operator
import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import places
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from places import Place, everything, fill_domains, new, suffixes

from service.catalogue import embedded, redis_server
from service.catalogue.checking import examine
from service.catalogue.fingerprint import item_part
from service.catalogue.live import LiveCatalogue
from service.catalogue.opening import open_store, stored_generations
from service.catalogue.records import ItemKey, NewItem, Outcome, StoredItem
from service.catalogue.store_rules import MAX_DOMAINS
from service.errors import BundleError, ConfigError, InvalidInput, LimitExceeded, NotReady
from service.semantic_ids import TokenLayout

LAYOUT = places.LAYOUT
FULL_WIDTH = TokenLayout(levels=6, codes=256, experts=4, experts_per_item=1, suffixes=4)  # 52 bits, wider than a double
SIGNED = TokenLayout(levels=7, codes=256, experts=4, experts_per_item=1, suffixes=64)  # 64 bits: the sign bit is used


def test_a_batch_gets_suffixes_in_order_by_group(place: Place) -> None:
    store = place.open()
    registered = store.register(
        [new("a"), new("b", (1, 3)), new("c"), new("d", domain="books"), new("a", (9, 9)), new("e", (255, 0))]
    )
    assert registered.values.tolist() == [
        [1, 2, 3, 0],
        [1, 3, 3, 0],
        [1, 2, 3, 1],
        [1, 2, 3, 0],
        [1, 2, 3, 0],
        [255, 0, 3, 0],
    ]
    assert registered.created.tolist() == [True, True, True, True, False, True]
    assert not registered.refused.any()
    assert store.status().items == {"films": 4, "books": 1}


def test_an_item_keeps_its_id_whatever_its_codes_and_takes_its_new_title(place: Place) -> None:
    store = place.open()
    store.register([new("a", title="old", content='{"brand": "x"}'), new("b", title="", content="")])
    again = store.register([new("a", (7, 7), title="new")])
    assert again.values.tolist() == [[1, 2, 3, 0]]
    assert again.created.tolist() == [False]
    (a, b) = store.get([ItemKey("films", "a"), ItemKey("films", "b")])
    assert (a and (a.title, a.content), b and (b.title, b.content)) == (("new", None), ("", None))


def test_domains_beyond_the_limit_are_refused_and_leave_nothing_behind(place: Place) -> None:
    """A server kept their numbers, and no replica could be started on it any more."""
    store = place.open()
    store.register([new("a")])
    fill_domains(store, MAX_DOMAINS - 1)
    store.register([new("a", domain="the last")])
    for name in ("one too many", "two too many"):
        with pytest.raises(LimitExceeded, match=f"'{name}' is one too many: a store holds 65535"):
            store.register([new("b"), new("a", domain=name)])
        with pytest.raises(LimitExceeded, match=name):
            store.restore([StoredItem(name, "a", 8)])
    assert store.register([new("c", domain="domain 7")]).created.all()
    assert store.status().items == {"films": 1, "the last": 1, "domain 7": 1}
    live = LiveCatalogue(place.open())
    assert live.domains() == {"films": 1, "the last": 1, "domain 7": 1}
    assert live.lookup([ItemKey("two too many", "a")]) == [None]


def test_repeating_a_registration_changes_nothing_and_logs_nothing(place: Place) -> None:
    store = place.open()
    items = [new(str(number), (number % 3, 0), title=f"t{number}", content='{"é": 1}') for number in range(10)]
    first = store.register(items)
    head, content = store.head(), everything(store)
    second = store.register(items)
    assert second.values.tolist() == first.values.tolist()
    assert not second.created.any()
    assert (store.head(), everything(store)) == (head, content)


def test_new_content_under_the_same_title_is_stored_and_told(place: Place) -> None:
    store = place.open()
    for number, content in enumerate(['{"brand": "x"}', '{"brand": "y"}', None, '{"brand": "y"}'], start=1):
        store.register([new("a", title="t", content=content)])
        (a,) = store.get([ItemKey("films", "a")])
        assert a is not None
        assert (a.title, a.content, store.head()) == ("t", content, number)


def test_nothing_but_the_id_is_kept_of_a_deleted_item(place: Place) -> None:
    store = place.open()
    store.register([new("a", title="secret", content='{"brand": "secret"}')])
    store.delete(ItemKey("films", "a"))
    ((item,),) = store.rows()
    assert (item.item_id, item.live, item.title, item.content) == ("a", False, None, None)
    store.register([new("a")])
    ((item,),) = store.rows()
    assert (item.item_id, item.live, item.title, item.content) == ("a", True, None, None)


def test_mending_replaces_what_is_kept_and_lowers_no_counter(place: Place) -> None:
    store = place.open()
    store.register([new("a"), new("b"), new("x", domain="books")])
    totals = store.totals()
    assert store.mend(replace(totals, items={"films": 2}, fingerprints={"films": 7}), [("films", id_of(1, 2, 3, 0), 1)])
    assert store.totals().fingerprints == {"films": 7}
    assert suffixes(store, [new("c")]) == [2]


def test_a_deleted_item_keeps_its_id_for_itself(place: Place) -> None:
    store = place.open()
    assert suffixes(store, [new("a"), new("b")]) == [0, 1]
    assert store.delete(ItemKey("films", "b"))
    assert not store.delete(ItemKey("films", "b"))
    assert not store.delete(ItemKey("films", "never"))
    assert not store.delete(ItemKey("no such domain", "b"))
    assert store.get([ItemKey("films", "b")]) == [None]
    assert set(everything(store)) == {ItemKey("films", "a")}
    assert suffixes(store, [new("c")]) == [2]
    back = store.register([new("b", (8, 8))])
    assert back.values.tolist() == [[1, 2, 3, 1]]
    assert back.created.tolist() == [True]
    assert store.status().items == {"films": 3}


def test_a_full_group_refuses_its_item_and_no_other(place: Place) -> None:
    store = place.open()
    assert suffixes(store, [new(f"i{number}") for number in range(299)]) == list(range(299))
    registered = store.register([new("last"), new("over"), new("elsewhere", (4, 4)), new("i0")])
    assert registered.refused.tolist() == [False, True, False, False]
    assert registered.values[:, -1].tolist() == [299, -1, 0, 0]
    assert registered.created.tolist() == [True, False, True, False]
    assert store.get([ItemKey("films", "over")]) == [None]
    store.delete(ItemKey("films", "i7"))
    assert store.register([new("over")]).refused.tolist() == [True], "a tombstone still holds its suffix"


@pytest.mark.parametrize("layout", [FULL_WIDTH, SIGNED], ids=["52 bits", "64 bits"])
def test_wide_ids_come_back_whole(place: Place, layout: TokenLayout) -> None:
    store = place.open(layout)
    high = [NewItem("d", f"h{n}", (255,) * layout.levels, (3,)) for n in range(layout.suffixes + 1)]
    low = [NewItem("d", f"l{n}", (0,) * layout.levels, (0,)) for n in range(2)]
    registered = store.register(high + low)
    assert registered.values[:, -1].tolist() == [*range(layout.suffixes), -1, 0, 1]
    assert registered.values[0].tolist() == [255] * layout.levels + [3, 0]
    packed = [item.packed for item in store.get([ItemKey("d", "h3"), ItemKey("d", "l1")]) if item]
    values = layout.unpack(np.array(packed, dtype=np.uint64)).tolist()
    assert values == [[255] * layout.levels + [3, 3], [0] * layout.levels + [0, 1]]
    assert {item.packed for item in everything(store).values()} >= set(packed)


def test_get_answers_in_the_order_asked_for(place: Place) -> None:
    store = place.open()
    store.register([new("ключ\0", title="Ünïcode ✓", content='{"a": "ß"}')])
    found = store.get([ItemKey("films", "x"), ItemKey("films", "ключ\0"), ItemKey("other", "ключ\0")])
    packed = int(LAYOUT.pack(np.array([[1, 2, 3, 0]]))[0])
    assert found == [None, StoredItem("films", "ключ\0", packed, "Ünïcode ✓", '{"a": "ß"}'), None]
    assert store.get([]) == []


def test_the_log_names_every_change_to_every_replica(place: Place) -> None:
    one, two = place.open(), place.open()
    assert two.changes(0).keys == ()
    one.register([new("a"), new("b", domain="books")])
    two.delete(ItemKey("films", "a"))
    one.register([new("a", title="back")])
    a, b = ItemKey("films", "a"), ItemKey("books", "b")
    assert two.changes(0).keys == one.changes(0).keys == (a, b, a, a)
    assert (one.head(), two.changes(0).last, two.changes(0).gap) == (4, 4, False)
    assert (two.changes(1, limit=2).keys, two.changes(1, limit=2).last) == ((b, a), 3)
    assert (two.changes(4).keys, two.changes(4).last, two.changes(4).gap) == ((), 4, False)
    assert two.changes(5).gap, "a store that was set back is read anew"


def test_a_reader_that_fell_behind_the_log_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    # The stream is trimmed by whole nodes of about a hundred entries, hence the numbers.
    monkeypatch.setattr(embedded, "CHANGES_KEPT", 200)
    monkeypatch.setattr(redis_server, "CHANGES_KEPT", 200)
    store = place.open()
    for batch in range(10):
        store.register([new(f"{batch}-{number}", (batch, number)) for number in range(100)])
    behind = store.changes(0)
    assert (behind.gap, behind.keys, behind.last) == (True, (), 1000)
    assert store.changes(800).keys[0] == ItemKey("films", "8-0")
    assert len(store.changes(800).keys) == 200


def test_seeding_keeps_the_ids_given_and_may_be_repeated(place: Place) -> None:
    store = place.open(seeded=False)
    rows = np.array([[1, 2, 3, 0], [1, 2, 3, 2], [4, 4, 4, 0]], dtype=np.int32)
    items = [
        StoredItem("films", f"s{row}", int(packed), f"title {row}")
        for row, packed in enumerate(LAYOUT.pack(rows).tolist())
    ]
    store.seed(items[:2])
    assert not store.seeded()
    for refused in (
        lambda: store.register([new("x")]),
        lambda: store.delete(ItemKey("films", "s0")),
        lambda: store.mend(store.totals(), ()),
    ):
        with pytest.raises(NotReady, match="not stored yet"):
            refused()
    store.seed(items)
    store.finish_seed()
    assert store.seeded()
    assert everything(store) == {item.key: item for item in items}
    assert store.head() == 0
    assert suffixes(store, [new("x"), new("y", (4, 4)), new("s1")]) == [3, 0, 2], "y has another expert"
    store.delete(ItemKey("films", "s0"))
    store.seed(items)
    assert ItemKey("films", "s0") not in everything(store), "seeding a finished catalogue revives nothing"


def test_seeding_does_nothing_once_it_is_finished(place: Place) -> None:
    store = place.open()
    store.seed([StoredItem("films", "late", id_of(1, 2, 3, 0))])
    assert everything(store) == {}
    assert suffixes(store, [new("a")]) == [0]


def test_seeding_one_item_with_two_ids_is_an_error(place: Place) -> None:
    store = place.open(seeded=False)
    store.seed([StoredItem("films", "a", 8)])
    with pytest.raises(BundleError, match="'a' of domain 'films' has two IDs"):
        store.seed([StoredItem("films", "b", 16), StoredItem("films", "a", 24)])


def id_of(*values: int) -> int:
    return int(LAYOUT.pack(np.array([values], dtype=np.int32))[0])


def test_items_are_put_back_with_their_ids_and_nothing_is_overwritten(place: Place) -> None:
    store = place.open()
    store.register([new("a", title="A"), new("b"), new("c", (9, 9))])
    store.delete(ItemKey("films", "b"))
    head = store.head()
    rows = [
        StoredItem("films", "a", id_of(1, 2, 3, 0), "another title"),
        StoredItem("films", "b", id_of(1, 2, 3, 1), "revived"),
        StoredItem("films", "c", id_of(1, 2, 3, 5)),
        StoredItem("films", "x", id_of(1, 2, 3, 1)),
        StoredItem("films", "y", id_of(1, 2, 3, 7), "Y", '{"brand":"x"}'),
        StoredItem("films", "gone", id_of(1, 2, 3, 9), live=False),
        StoredItem("books", "y", id_of(1, 2, 3, 4)),
    ]
    there, other, given, added = Outcome.THERE, Outcome.OTHER_ID, Outcome.ID_GIVEN, Outcome.ADDED
    expected = [there, there, other, given, added, added, added]
    before = everything(store)
    assert store.restore(rows, dry=True) == expected
    assert (everything(store), store.head()) == (before, head)
    assert store.restore(rows) == expected
    assert store.changes(head).keys == (rows[4].key, rows[5].key, rows[6].key), "replicas must hear of them"
    assert everything(store) == before | {
        rows[4].key: StoredItem("films", "y", rows[4].packed, "Y"),
        rows[6].key: rows[6],
    }
    assert store.get([rows[4].key]) == [rows[4]]
    assert store.restore(rows) == [there, there, other, given, there, there, there]
    assert suffixes(store, [new("next"), new("gone")]) == [10, 9], "a deleted item's ID is reserved for it"
    assert examine(store).findings == ()


def test_items_can_be_put_back_before_the_bundles_own(place: Place) -> None:
    store = place.open(seeded=False)
    deleted = StoredItem("films", "s0", id_of(1, 2, 3, 0), live=False)
    assert store.restore([deleted, StoredItem("films", "x", id_of(1, 2, 3, 2))]) == [Outcome.ADDED] * 2
    assert store.head() == 0
    store.seed([StoredItem("films", "s0", id_of(1, 2, 3, 0), "S"), StoredItem("films", "s1", id_of(1, 2, 3, 1))])
    store.finish_seed()
    assert {key.item_id for key in everything(store)} == {"x", "s1"}, "seeding revives nothing that was deleted"
    assert store.totals().items == {"films": 2}
    assert suffixes(store, [new("n")]) == [3]


def test_a_wrong_row_puts_nothing_back(place: Place) -> None:
    store = place.open()
    with pytest.raises(InvalidInput, match="513 bytes"):
        store.restore([StoredItem("films", "a", 0), StoredItem("films", "x" * 513, 8)])
    assert (everything(store), store.head(), store.restore([])) == ({}, 0, [])


def test_status_counts_and_measures(place: Place) -> None:
    store = place.open()
    empty = store.status()
    assert (empty.items, empty.fingerprints, empty.log_length) == ({}, {}, 0)
    store.register([new(str(number), (number % 9, 0), title="t" * 100) for number in range(2000)])
    store.delete(ItemKey("films", "0"))
    status = store.status()
    assert (status.items, status.head, status.log_length) == ({"films": 1999}, 2001, 2001)
    assert status.fingerprints == store.totals().fingerprints
    assert 100 * 2000 < status.bytes - empty.bytes < 2000 * 2000


def test_generations_are_found_by_name(place: Place) -> None:
    place.open(generation=2).close()
    place.open(SIGNED, generation=10).close()
    found = [generation for generation in stored_generations(place.url) if generation.bundle == place.name]
    assert {generation.number: generation.layout for generation in found} == {2: LAYOUT, 10: SIGNED}


def test_generations_lie_beside_each_other(place: Place) -> None:
    one, two = place.open(generation=1), place.open(generation=2)
    one.register([new("a"), new("b")])
    assert two.register([new("b")]).values.tolist() == [[1, 2, 3, 0]]
    assert (one.status().items, two.status().items) == ({"films": 2}, {"films": 1})
    assert one.status().generation.endswith(":1")


def test_ids_of_another_layout_are_not_opened(place: Place) -> None:
    place.open()
    with pytest.raises(ConfigError, match="new generation"):
        place.open(FULL_WIDTH)


def test_checkpoints_are_kept(place: Place) -> None:
    store = place.open()
    assert store.checkpoint("file") is None
    store.save_checkpoint("file", "1")
    store.save_checkpoint("file", "2 ✓")
    assert place.open().checkpoint("file") == "2 ✓"


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (new("x", (1, 256)), "not within 0..255"),
        (new("x", (1, -1)), "not within 0..255"),
        (new("x", (1,)), "1 codes"),
        (new(""), "item_id has 0 bytes"),
        (new("x" * 513), "513 bytes"),
        (new("x", domain=""), "domain has 0 bytes"),
        (new("\ud800"), "surrogate"),
        (new("x", title="\ud800"), "title"),
    ],
)
def test_a_wrong_item_refuses_its_batch_whole(place: Place, item: NewItem, message: str) -> None:
    store = place.open()
    with pytest.raises(InvalidInput, match=message):
        store.register([new("fine"), item])
    assert (everything(store), store.head()) == ({}, 0)


def test_an_empty_batch_is_no_change(place: Place) -> None:
    store = place.open()
    registered = store.register([])
    assert registered.values.shape == (0, LAYOUT.depth)
    assert registered.refused.shape == registered.created.shape == (0,)
    assert store.head() == 0


class Twin:
    """The same promises as plain dictionaries."""

    def __init__(self) -> None:
        self.ids: dict[tuple[str, str], tuple[int, ...]] = {}
        self.live: set[tuple[str, str]] = set()

    def register(self, item: NewItem, suffixes: int) -> tuple[int, ...] | None:
        key = (item.domain, item.item_id)
        if key not in self.ids:
            group = [ids for (domain, _), ids in self.ids.items() if domain == item.domain and ids[:2] == item.codes]
            if len(group) == suffixes:
                return None
            self.ids[key] = (*item.codes, *item.experts, len(group))
        self.live.add(key)
        return self.ids[key]


SMALL = TokenLayout(levels=2, codes=2, experts=5, experts_per_item=1, suffixes=3)
operations = st.lists(
    st.tuples(
        st.booleans(),
        st.lists(
            st.tuples(st.sampled_from("pq"), st.sampled_from("abcdefgh"), st.integers(0, 1), st.integers(0, 1)),
            max_size=8,
        ),
    ),
    max_size=12,
)


@pytest.mark.usefixtures("few_buckets")
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations)
def test_any_history_equals_plain_dictionaries(
    place: Place, history: list[tuple[bool, list[tuple[str, str, int, int]]]]
) -> None:
    place.name = next(places.names)
    store, twin = place.open(SMALL), Twin()
    for register, rows in history:
        if register:
            items = [NewItem(domain, item_id, (a, b), (3,)) for domain, item_id, a, b in rows]
            expected = [twin.register(item, SMALL.suffixes) or (-1,) * 4 for item in items]
            assert store.register(items).values.tolist() == [list(row) for row in expected]
        else:
            for domain, item_id, *_ in rows:
                assert store.delete(ItemKey(domain, item_id)) == ((domain, item_id) in twin.live)
                twin.live.discard((domain, item_id))
    stored = everything(store)
    assert set(stored) == twin.live
    for key, item in stored.items():
        assert SMALL.unpack(np.array([item.packed], dtype=np.uint64))[0].tolist() == list(twin.ids[key])
    totals = store.totals()
    for domain in "pq":
        parts = [item_part(item.item_id, item.packed) for item in stored.values() if item.domain == domain]
        assert totals.fingerprints.get(domain, 0) == functools.reduce(operator.xor, parts, 0)
        assert totals.items.get(domain, 0) == len(parts)
    assert totals.head == store.head()
    rows = [item for batch in store.rows() for item in batch]
    assert {item.key for item in rows} == set(twin.ids), "deleted items are among the rows"
    assert {item.key for item in rows if item.live} == twin.live
    assert examine(store).findings == ()
    store.close()


def test_threads_that_collide_share_out_the_suffixes(place: Place) -> None:
    stores = [place.open(), place.open()]
    results: list[list[int]] = [[] for _ in range(4)]

    def work(worker: int) -> None:
        for batch in range(6):
            items = [new(f"{worker}-{batch}-{number}") for number in range(8)] + [new(f"both-{batch}", (5, 5))]
            results[worker] += suffixes(stores[worker % 2], items)[:8]

    in_parallel(work, 4)
    given_out = [suffix for result in results for suffix in result]
    assert sorted(given_out) == list(range(4 * 6 * 8))
    assert all(result == sorted(result) for result in results)
    items = everything(stores[0])
    assert len({item.packed for item in items.values()}) == len(items) == 4 * 6 * 8 + 6


def in_parallel(work: Callable[[int], None], workers: int) -> None:
    failures: list[BaseException] = []

    def guarded(worker: int) -> None:
        try:
            work(worker)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(worker,)) for worker in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_status_names_the_place_without_its_password(place: Place) -> None:
    status = place.open().status()
    assert status.seeded
    assert status.kind in place.url or status.kind == "redis"
    assert "se-cret" not in repr(status)


@pytest.mark.parametrize(
    "url", ["", "embedded:", "postgres://:se-cret@host/x", "catalogue", "redis://u:se-cret/x@host", "redis://host:port"]
)
def test_a_url_of_no_store_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(url, "b", 1, LAYOUT)
    assert "se-cret" not in str(caught.value)
