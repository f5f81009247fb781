"""Copies of an index that are patched, against the index itself.

They lie in the host's memory here and are written to by the very calls by which copies on a GPU are.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.bundle.files import Bundle
from service.engine import resident, slot_writer
from service.engine.engine import Engine
from service.engine.recommender import BeamResult, Recommender
from service.engine.resident import ResidentIndexes, sent_along
from service.engine.sessions import Runtime
from service.engine.signature import Tensor
from service.engine.slot_writer import SlotWriter
from service.errors import ModelError
from service.index import journal
from service.index.journal import Journal, Written
from service.index.trie import CodeTrie, TrieArrays

CPU = Runtime(threads=1)
DEPTH, ROOTS = 3, 2
Item = tuple[int, int, int, int]  # root and three tokens
Found = dict[Item, int]

some_items = st.sets(st.tuples(st.integers(0, ROOTS - 1), *[st.integers(0, 3)] * DEPTH), max_size=12)


def columns(items: Sequence[Item]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Roots and tokens."""
    rows = np.array(items, dtype=np.int32).reshape(-1, 1 + DEPTH)
    return rows[:, 0], rows[:, 1:]


def built(items: Sequence[Item], shared: int = 0) -> CodeTrie:
    roots, tokens = columns(items)
    return CodeTrie.from_tokens(tokens, roots, np.arange(len(items), dtype=np.int32), ROOTS, shared)


def toggled(trie: CodeTrie, items: Sequence[Item], first_leaf: int) -> None:
    """Take out those items that are there, and bring in the others."""
    there = trie.state.find(*columns(items)) >= 0
    gone = [item for item, is_there in zip(items, there, strict=True) if is_there]
    new = [item for item, is_there in zip(items, there, strict=True) if not is_there]
    trie.change(columns(gone), (*columns(new), np.arange(first_leaf, first_leaf + len(new))))


def as_arrays(feeds: Mapping[str, Any]) -> dict[str, NDArray[np.int32]]:
    return {n: v.numpy() if isinstance(v, onnxruntime.OrtValue) else v for n, v in feeds.items()}


def reachable(state: TrieArrays, feeds: Mapping[str, Any]) -> Found:
    """What a search would come to from the roots of a state, within the given arrays."""
    read, found = as_arrays(feeds), Found()

    def walk(node: int, path: tuple[int, ...]) -> None:
        start = int(read["node_start"][node])
        for edge in range(start, start + int(read["node_count"][node])):
            token, child = int(read["edge_token"][edge]), int(read["edge_child"][edge])
            if len(path) == DEPTH:
                found[(*path, token)] = child  # type: ignore[index]
            else:
                walk(child, (*path, token))

    for root, node in enumerate(state.roots.tolist()):
        walk(node, (root,))
    return found


def own(state: TrieArrays) -> Found:
    return reachable(state, sent_along(state))


def is_resident(feeds: Mapping[str, Any]) -> bool:
    return all(isinstance(value, onnxruntime.OrtValue) for value in feeds.values())


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of the arrays that are sent as a whole."""
    lengths: list[int] = []
    send = resident._Copy._sent

    def counted(self: resident._Copy, array: NDArray[np.int32]) -> onnxruntime.OrtValue:
        lengths.append(len(array))
        return send(self, array)

    monkeypatch.setattr(resident._Copy, "_sent", counted)
    return lengths


@settings(max_examples=150)
@given(some_items, st.lists(st.tuples(some_items, st.booleans()), max_size=14), st.integers(0, DEPTH))
def test_a_copy_holds_every_state_that_is_kept(
    start: set[Item], steps: list[tuple[set[Item], bool]], shared: int
) -> None:
    """Of any changes, some are looked at and some are not, and every fourth state is kept to the end."""
    trie, indexes = built(sorted(start), shared), ResidentIndexes(CPU)
    indexes.feeds(trie.arrays())
    kept: list[tuple[TrieArrays, Found]] = []
    for number, (items, is_looked_at) in enumerate(steps):
        toggled(trie, sorted(items), 100 * (number + 1))
        if number % 4 == 1:
            kept.append((trie.arrays(), own(trie.arrays())))
        if number % 5 == 3:
            trie.add_root()
        if is_looked_at:
            state = trie.arrays()
            feeds = indexes.feeds(state)
            assert is_resident(feeds)
            assert reachable(state, feeds) == own(state)
            for older, before in kept:
                assert reachable(older, indexes.feeds(older)) == before


def test_an_index_is_sent_once_and_then_patched(sent: list[int]) -> None:
    trie, indexes = built([(0, 1, 2, 3)]), ResidentIndexes(CPU)
    first, again = indexes.feeds(trie.arrays()), indexes.feeds(trie.arrays())
    assert not is_resident(first)
    assert is_resident(again)
    assert len(sent) == 4
    where = [value.data_ptr() for value in again.values()]
    for number in range(50):
        toggled(trie, [(0, number % 4, 0, 1), (1, 1, number % 3, 0)], number)
        feeds = indexes.feeds(trie.arrays())
        assert reachable(trie.arrays(), feeds) == own(trie.arrays())
        assert [value.data_ptr() for value in feeds.values()] == where
    assert len(sent) == 4


def test_an_index_that_outgrows_its_copy_is_sent_again(sent: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "LEAST_ROOM", 8)
    monkeypatch.setattr(resident, "PATCHED_SHARE", 100.0)
    trie, indexes = built([]), ResidentIndexes(CPU)
    indexes.feeds(trie.arrays())
    indexes.feeds(trie.arrays())
    before = trie.arrays()
    for number in range(64):
        toggled(trie, [(0, number // 16, number // 4 % 4, number % 4)], number)
        feeds = indexes.feeds(trie.arrays())
        assert reachable(trie.arrays(), feeds) == own(trie.arrays())
        assert len(own(trie.arrays())) == number + 1
    assert 4 < len(sent) < 4 * 30
    assert reachable(before, indexes.feeds(before)) == {}


def test_a_large_change_is_sent_as_a_whole(sent: list[int]) -> None:
    tokens = np.stack(np.unravel_index(np.arange(8000), (20, 20, 20)), axis=1).astype(np.int32)
    roots = np.zeros(len(tokens), dtype=np.int32)
    trie = CodeTrie.from_tokens(tokens[::2], roots[::2], np.arange(4000, dtype=np.int32), 1)
    indexes = ResidentIndexes(CPU)
    indexes.feeds(trie.arrays())
    indexes.feeds(trie.arrays())
    trie.change(added=(roots[1::2], tokens[1::2], np.arange(4000, 8000)))
    feeds = indexes.feeds(trie.arrays())
    assert len(sent) == 8
    assert reachable(trie.arrays(), feeds) == own(trie.arrays())


def test_a_copy_that_fell_behind_what_is_remembered_is_made_anew(
    sent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "MOST_NUMBERS", 40)
    trie, indexes = built([(0, 1, 2, 3)]), ResidentIndexes(CPU)
    indexes.feeds(trie.arrays())
    indexes.feeds(trie.arrays())
    for number in range(30):
        toggled(trie, [(0, number % 4, number // 4 % 4, number % 3)], number)
    feeds = indexes.feeds(trie.arrays())
    assert len(sent) == 8
    assert reachable(trie.arrays(), feeds) == own(trie.arrays())


def test_a_journal_tells_only_what_it_knows_whole() -> None:
    def written(*nodes: int) -> Written:
        return Written.of([np.array(nodes)], [])

    notes = Journal()
    assert notes.between(1, 2) is None
    notes.begin(3)
    notes.note(4, written(7))
    notes.note(5, written(8, 9))
    assert notes.between(2, 5) is None
    found = notes.between(3, 5)
    assert found is not None
    assert found.nodes.tolist() == [7, 8, 9]
    found = notes.between(4, 5)
    assert found is not None
    assert found.nodes.tolist() == [8, 9]
    found = notes.between(3, 4)
    assert found is not None
    assert found.nodes.tolist() == [7]
    notes.begin(6)
    assert notes.between(5, 6) is None, "what happened before it began again is not known"


def test_a_journal_that_begins_again_forgets_what_was_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MOST_NUMBERS", 4)

    def nodes(*written: int) -> Written:
        return Written.of([np.array(written)], [])

    notes = Journal()
    notes.begin(3)
    notes.note(4, nodes(7, 8))
    notes.begin(6)
    notes.note(7, nodes(1, 2, 3))
    found = notes.between(6, 7)
    assert found is not None
    assert found.nodes.tolist() == [1, 2, 3]
    notes.note(8, nodes(4, 5))
    assert [notes.between(version, 8) is None for version in (4, 5, 6, 7)] == [True, True, True, False]


def test_nothing_is_noted_while_nobody_has_a_copy() -> None:
    trie = built([(0, 1, 2, 3)])
    indexes = ResidentIndexes(CPU)
    indexes.feeds(trie.arrays())
    toggled(trie, [(0, 0, 0, 0)], 5)
    assert trie._nodes.handed == []
    del indexes
    gc.collect()
    toggled(trie, [(0, 0, 0, 1)], 6)
    assert trie._nodes.handed is None
    assert trie._edges.handed is None


def test_a_copy_goes_with_its_index() -> None:
    indexes = ResidentIndexes(CPU)
    tries = [built([(0, 1, 2, number)]) for number in range(3)]
    for trie in tries * 2:
        indexes.feeds(trie.arrays())
    assert len(indexes._copies) == 3
    del trie
    tries.pop()
    gc.collect()
    assert len(indexes._copies) == 2


def test_an_index_without_nodes_is_fed_as_it_is() -> None:
    indexes, trie = ResidentIndexes(CPU), CodeTrie(DEPTH, 0)
    for _ in range(3):
        feeds = as_arrays(indexes.feeds(trie.arrays()))
        assert all(len(array) >= 1 for array in feeds.values())
    trie.add_root()
    assert is_resident({} | indexes.feeds(trie.arrays()) | indexes.feeds(trie.arrays()))


def test_one_thread_changes_while_others_look() -> None:
    """States that are kept for a while and let go again, so that slots are used again under way."""
    trie, indexes, random = built([(0, 1, 2, 3)], shared=1), ResidentIndexes(CPU), np.random.default_rng(0)
    indexes.feeds(trie.arrays())
    ended, wrong, looked = threading.Event(), list[tuple[Found, Found]](), [0, 0, 0]

    def look(number: int) -> None:
        while not ended.is_set():
            state = trie.arrays()
            expected = own(state)
            for _ in range(3):
                found = reachable(state, indexes.feeds(state))
                if found != expected:
                    wrong.append((found, expected))
                    return
            looked[number] += 1

    threads = [threading.Thread(target=look, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for number in range(600):
        drawn = np.concatenate([random.integers(0, 2, (3, 1)), random.integers(0, 4, (3, DEPTH))], axis=1)
        items = {tuple(row) for row in drawn.tolist()}
        toggled(trie, sorted(items), number)  # type: ignore[arg-type]
    ended.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert min(looked) > 0


def test_the_graph_that_writes_is_a_valid_one_and_writes_in_place() -> None:
    inputs = [Tensor("at", "int64", ("k", 1)), Tensor("x", "int32", ("n",)), Tensor("x_values", "int32", ("k",))]
    model = slot_writer._graph({"at": ("x",)}, inputs, [Tensor("x_after", "int32", ("n",))])
    onnx.checker.check_model(onnx.load_model_from_string(model), full_check=True)
    x = np.arange(1000, dtype=np.int32)
    value = onnxruntime.OrtValue.ortvalue_from_numpy(x)
    writer = SlotWriter(CPU, {"at": ("x",)})
    writer.write({"x": value}, {"at": np.array([3, 999, 3])}, {"x": np.array([-5, 7, -5], dtype=np.int32)})
    expected = np.arange(1000, dtype=np.int32)
    expected[[3, 999]] = -5, 7
    np.testing.assert_array_equal(x, expected)
    writer.write({"x": value}, {"at": np.zeros(0, np.int64)}, {"x": np.zeros(0, np.int32)})
    np.testing.assert_array_equal(x, expected)
    with pytest.raises(ModelError, match=r"slot_writer\.onnx: failed on x \[1000\], at \[1, 1\], x_values \[1\]"):
        writer.write({"x": value}, {"at": np.array([1000])}, {"x": np.array([1], dtype=np.int32)})


@pytest.fixture(scope="module")
def engine(tiny_bundle: Path) -> Engine:
    return Engine.open(Bundle.open(tiny_bundle), threads=1)


def test_searches_of_a_copy_are_those_of_the_index(engine: Engine, tiny_bundle: Path) -> None:
    plain, random = engine.recommender_for([]), np.random.default_rng(1)
    layout = plain.layout
    path = Bundle.open(tiny_bundle).path(plain.part.model)
    copied = Recommender.open(path, plain.part, layout, CPU, ResidentIndexes(CPU))
    sizes = np.array(layout.position_sizes)
    values = np.unique(random.integers(0, sizes, (600, len(sizes))), axis=0).astype(np.int32)
    tokens, roots = layout.tokens(values), np.zeros(len(values), dtype=np.int32)
    half = len(values) // 2
    order = random.permutation(len(values))
    trie = CodeTrie.from_tokens(tokens[order[:half]], roots[:half], order[:half].astype(np.int32), 1, 2)

    def both(state: TrieArrays) -> tuple[BeamResult, BeamResult]:
        asked = {
            "history": np.concatenate([tokens[order[:2]], tokens[order[2:4]]], axis=1).astype(np.int64),
            "history_mask": np.ones((2, 2 * layout.depth), dtype=np.int64),
            "index": state,
            "roots": np.tile(state.roots, (2, 1)),
            "blocked": np.zeros((2, 0), dtype=np.int32),
            "beams": 20,
        }
        return plain.search(**asked), copied.search(**asked)

    kept = trie.arrays()
    before, _ = both(kept)
    for item in order[half : half + 60]:
        trie.insert(0, tokens[item], int(item))
        if trie.state.find(np.zeros(1, dtype=np.int32), tokens[order[item % half]][None]) >= 0:
            trie.delete(0, tokens[order[item % half]])
        expected, found = both(trie.arrays())
        np.testing.assert_array_equal(found.tokens, expected.tokens)
        np.testing.assert_array_equal(found.leaf, expected.leaf)
        np.testing.assert_array_equal(found.log_prob, expected.log_prob)
    after, found = both(kept)
    assert (expected.tokens != after.tokens).any()
    for result in (after, found):
        np.testing.assert_array_equal(result.tokens, before.tokens)
        np.testing.assert_array_equal(result.leaf, before.leaf)
