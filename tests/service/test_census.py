"""The census of a catalogue against counting anew, and the live catalogue's own through every kind of change."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.catalogue.census import Census
from service.catalogue.columns import ItemColumns
from service.catalogue.embedded import EmbeddedStore
from service.catalogue.fingerprint import Fingerprints
from service.catalogue.live import LiveCatalogue
from service.catalogue.live_state import LiveState
from service.catalogue.records import ItemKey, NewItem, StoredItem
from service.catalogue.table import CatalogueTable
from service.semantic_ids import TokenLayout

LAYOUT = TokenLayout(levels=2, codes=5, experts=3, experts_per_item=2, suffixes=4)
Row = tuple[int, int, int, int, int]
rows = st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 2), st.integers(0, 2), st.integers(0, 3))


def check(census: Census, domain: str, expected: list[Row]) -> None:
    """Compare with counting by hand."""
    found = census.of(domain)
    assert (found.items, found.collided) == (len(expected), sum(row[-1] > 0 for row in expected))
    for level in range(2):
        counts = Counter(row[level] for row in expected)
        entropy = -sum(n / len(expected) * math.log(n / len(expected)) for n in counts.values())
        assert found.perplexity[level] == pytest.approx(math.exp(entropy))
    chosen = Counter(expert for row in expected for expert in row[2:4])
    assert found.expert_share.tolist() == pytest.approx([chosen[k] / max(1, 2 * len(expected)) for k in range(3)])


@given(st.lists(st.tuples(st.sampled_from("ab"), st.lists(rows, max_size=6)), max_size=6), st.data())
def test_the_census_equals_counting_anew(batches: list[tuple[str, list[Row]]], data: st.DataObject) -> None:
    census = Census(LAYOUT)
    held: dict[str, list[Row]] = {"a": [], "b": []}
    for domain, batch in batches:
        census.add(domain, np.array(batch, dtype=np.int32).reshape(-1, 5))
        held[domain] += batch
        gone = data.draw(st.lists(st.sampled_from(held[domain]), max_size=2, unique_by=id)) if held[domain] else []
        for row in gone:
            if row in held[domain]:
                held[domain].remove(row)
                census.remove(domain, np.array([row], dtype=np.int32))
    for domain, expected in held.items():
        check(census, domain, expected)
    assert census.domains() == {domain: len(expected) for domain, expected in held.items() if expected}


def test_an_unknown_domain_is_an_empty_one() -> None:
    census = Census(LAYOUT)
    assert "a" not in census
    check(census, "a", [])


def test_the_live_catalogue_keeps_its_census(tmp_path: Path) -> None:
    stores = [EmbeddedStore(tmp_path, "census", 1, LAYOUT) for _ in range(2)]
    stores[0].finish_seed()
    live, replica = (LiveCatalogue(store) for store in stores)

    def new(domain: str, name: str, *values: int) -> NewItem:
        return NewItem(domain, name, values[:2], values[2:], title=name)

    live.register([new("a", "1", 0, 1, 0, 2), new("a", "2", 0, 1, 0, 2), new("b", "3", 4, 4, 1, 0)])
    live.register([new("a", "1", 3, 3, 1, 1)])  # known already: it keeps its ID
    check(live.census(), "a", [(0, 1, 0, 2, 0), (0, 1, 0, 2, 1)])
    live.delete(ItemKey("a", "1"))
    live.delete(ItemKey("a", "1"))
    replica.refresh()
    for catalogue in (live, replica, LiveCatalogue(stores[1])):
        check(catalogue.census(), "a", [(0, 1, 0, 2, 1)])
        check(catalogue.census(), "b", [(4, 4, 1, 0, 0)])
    for store in stores:
        store.close()


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4), st.integers(0, 4), st.integers(0, 2)), max_size=30),
    st.sets(st.integers(0, 29)),
)
def test_a_state_of_many_domains_is_that_of_each_item_alone(
    drawn: list[tuple[int, int, int, int]], deleted: set[int]
) -> None:
    """Built at once, and changed item by item: census, fingerprints and what is found; domains without items, too."""
    suffixes: Counter[tuple[int, ...]] = Counter()
    items, rows = [], []
    for number, (domain, *codes, expert) in enumerate(drawn):
        row = (*codes, expert, expert, suffixes[domain, *codes, expert])
        suffixes[domain, *codes, expert] += 1
        if row[-1] < LAYOUT.suffixes:
            rows.append(row)
            (packed,) = LAYOUT.pack(np.array([row], dtype=np.int32)).tolist()
            items.append(StoredItem(f"d{domain}", f"i{number}", packed))
    table, fingerprints, slowly = CatalogueTable(LAYOUT), Fingerprints(), LiveState.read(LAYOUT, [])
    for item in items:
        slowly.apply({item.key: item})
    table.add(ItemColumns.of(items))
    fingerprints.toggle_all(ItemColumns.of(items))
    changed = LiveState.read(LAYOUT, [])
    changed.apply({item.key: item for item in items})
    gone = [item for place, item in enumerate(items) if place in deleted]
    for item in gone:
        slowly.apply({item.key: None})
        table.remove(item.key)
    fingerprints.toggle_all(ItemColumns.of(gone))
    changed.apply({item.key: None for item in gone})
    for state in (LiveState.of(LAYOUT, table, fingerprints), changed):
        assert state.table.domains() == slowly.table.domains()
        assert state.table.counts() == slowly.table.counts() == state.census.domains()
        assert state.fingerprints.values() == slowly.fingerprints.values()
        for place, domain in enumerate(slowly.table.domains()):
            assert (domain in state.census) is (domain in slowly.census)
            held = [row for item, row in zip(items, rows, strict=True) if item.domain == domain and item not in gone]
            check(state.census, domain, held)
            roots = np.full(len(held), place, dtype=np.int32)
            tokens = LAYOUT.tokens(np.array(held, dtype=np.int32).reshape(-1, LAYOUT.depth))
            ordinals = [state.table.ordinal(item.key) for item in items if item.domain == domain and item not in gone]
            assert state.view.state.find(roots, tokens).tolist() == ordinals
