"""Items as columns against the same items one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live_catalogues import LAYOUT, names, opened

from service.catalogue.columns import ItemColumns, rows_of_each
from service.catalogue.fingerprint import Fingerprints, item_part, item_parts
from service.catalogue.live_state import LiveState
from service.catalogue.records import NewItem, StoredItem
from service.catalogue.table import CatalogueTable

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
packed = st.integers(0, 2**9 - 1)
stored = st.builds(
    StoredItem, st.sampled_from(["films", "books", "ü"]), st.text("abß\0", min_size=1), packed, st.none() | texts
)
items = st.lists(stored, max_size=20, unique_by=lambda item: item.key)


@given(items)
def test_columns_hold_the_items_that_they_were_made_of(given_items: list[StoredItem]) -> None:
    columns = ItemColumns.of(given_items)
    assert columns.items() == given_items
    assert len(columns) == len(given_items)


@given(st.integers(0, 8).flatmap(lambda count: st.tuples(st.just(count), st.lists(st.integers(0, max(0, count - 1))))))
def test_rows_of_each_number_are_those_that_a_look_at_all_rows_finds(drawn: tuple[int, list[int]]) -> None:
    count, numbers = drawn[0], np.array(drawn[1] if drawn[0] else [], dtype=np.int32)
    found = rows_of_each(numbers, count)
    assert [rows.tolist() for rows in found] == [np.flatnonzero(numbers == each).tolist() for each in range(count)]


@given(items)
def test_parts_of_many_are_those_of_each(given_items: list[StoredItem]) -> None:
    columns = ItemColumns.of(given_items)
    assert item_parts(columns).tolist() == [item_part(item.item_id, item.packed) for item in given_items]
    together, one_by_one = Fingerprints(), Fingerprints()
    together.toggle_all(columns)
    for item in given_items:
        one_by_one.toggle(item.domain, item.item_id, item.packed)
    assert together.values() == one_by_one.values()


@given(items, items)
def test_a_table_finds_each_of_many_items_added_at_once(first: list[StoredItem], more: list[StoredItem]) -> None:
    more = [item for item in more if item.key not in {item.key for item in first}]
    table = CatalogueTable(LAYOUT)
    rows = [*table.add(ItemColumns.of(first)), *table.add(ItemColumns.of(more))]
    every = first + more
    assert [table.ordinal(item.key) for item in every] == rows == list(range(len(every)))
    entries = table.entries([item.key for item in every])
    assert [(e.domain, e.item_id, e.title) for e in entries if e] == [(i.domain, i.item_id, i.title) for i in every]
    assert all(table.has_id(row, item.packed) for row, item in zip(rows, every, strict=True))
    assert sum(table.counts().values()) == len(every)


@pytest.mark.parametrize("reopened", [False, True])
def test_a_table_that_outgrows_its_slots_finds_every_live_item(reopened: bool) -> None:
    table, live = CatalogueTable(LAYOUT), list[StoredItem]()
    for batch in range(6):
        fresh = [StoredItem("films", f"{batch}-{number}", 1, f"title {number}") for number in range(400)]
        table.add(ItemColumns.of(fresh))
        for gone in fresh[::5]:
            table.remove(gone.key)
        live += [item for item in fresh if item not in fresh[::5]]
        if reopened:
            table = CatalogueTable.from_arrays(LAYOUT, table.arrays(), table.domains())
        found = table.entries([item.key for item in live])
        assert [entry and (entry.item_id, entry.title) for entry in found] == [(i.item_id, i.title) for i in live]
        assert table.entries([gone.key for gone in fresh[::5]]) == [None] * 80
    assert table.counts() == {"films": len(live)}


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(items, st.data())
def test_a_store_gives_the_same_items_at_once_and_one_by_one(
    both_urls: str, given_items: list[StoredItem], data: st.DataObject
) -> None:
    store = opened(both_urls, next(names))
    new = [NewItem(item.domain, item.item_id, (item.packed & 3, 1), (2,), item.title) for item in given_items]
    kept = store.register(new)
    there = [item for item, refused in zip(given_items, kept.refused.tolist(), strict=True) if not refused]
    for item in data.draw(st.lists(st.sampled_from(there), unique_by=lambda item: item.key)) if there else []:
        assert store.delete(item.key)
    one_by_one = {item.key: item for batch in store.rows() for item in batch if item.live}
    at_once = [item for batch in store.columns() for item in batch.items()]
    assert len(at_once) == len(one_by_one)
    assert {item.key: item for item in at_once} == one_by_one

    read = LiveState.read(LAYOUT, store.columns())
    totals = store.totals()
    assert read.table.counts() == totals.items
    assert read.fingerprints.values() == totals.fingerprints
    store.close()


@pytest.mark.parametrize("count", [0, 1])
def test_no_items_are_columns_too(count: int) -> None:
    columns = ItemColumns.of([StoredItem("films", "a", 5)] * count)
    assert (columns.packed.dtype, columns.domain.dtype) == (np.uint64, np.int32)
    assert CatalogueTable(LAYOUT).add(columns) == range(count)
