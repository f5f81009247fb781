"""Searches of fixed sizes against those of open sizes: equal lists, whatever pads them and however the index changes.

They run on the CPU here, by the calls by which a GPU captures and replays them; only the replay itself is not there.
"""

from __future__ import annotations

import gc
import shutil
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import T5ForConditionalGeneration

from service.bundle.manifest import RecommenderPart
from service.engine import fixed_searches
from service.engine.device_lock import DEVICE_LOCKS, DeviceLock
from service.engine.fixed_searches import FixedSearches
from service.engine.recommender import BeamResult, Recommender
from service.engine.resident import ResidentIndexes
from service.engine.sessions import Runtime, Session
from service.errors import GraphFailed, UnitokError
from service.index.trie import CodeTrie
from service.semantic_ids import IntArray, TokenLayout
from training.graphs.recommender import export_recommender
from training.networks.t5 import T5Settings, build_t5

CPU = Runtime(threads=1)
LAYOUT = TokenLayout(levels=2, codes=8, experts=2, experts_per_item=1, suffixes=3)
SMALL = T5Settings(d_model=16, d_ff=32, d_kv=8, heads=2, encoder_layers=1, decoder_layers=1)
PART = RecommenderPart(name="all", model="recommender.onnx", domains=[], domain_tokens=[], max_history=5)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model: T5ForConditionalGeneration = build_t5(LAYOUT, SMALL).eval()
    file = tmp_path_factory.mktemp("recommender") / PART.model
    export_recommender(model, LAYOUT, file)
    return file


@pytest.fixture
def pair(path: Path) -> tuple[Recommender, Recommender]:
    """One with open sizes, and one with fixed ones."""
    resident = ResidentIndexes(CPU)
    fixed = Recommender.open(path, PART, LAYOUT, CPU, resident, captured=True)
    return replace(fixed, _fixed=None), fixed


def items(count: int, seed: int = 0) -> IntArray:
    """Distinct tokens, int32 [count, depth]."""
    random = np.random.default_rng(seed)
    values = np.stack([random.integers(0, size, 8 * count) for size in LAYOUT.position_sizes], axis=1)
    return LAYOUT.tokens(np.unique(values, axis=0).astype(np.int32))[random.permutation(count)]


def trie_of(tokens: IntArray, roots: int = 1) -> CodeTrie:
    leaves = np.arange(len(tokens), dtype=np.int32)
    return CodeTrie.from_tokens(tokens, leaves % roots, leaves, roots)


def asking(  # noqa: PLR0917  in the order of `search`
    trie: CodeTrie, batch: int, width: int = 9, beams: int = 6, blocked: int = 0, seed: int = 0
) -> tuple[Any, ...]:
    """Arguments of `search`; the last request is shorter than the others."""
    random, index = np.random.default_rng(seed), trie.arrays()
    history = random.integers(2, LAYOUT.vocabulary, (batch, width))
    mask = np.ones_like(history)
    history[-1, width // 2 :] = mask[-1, width // 2 :] = 0
    roots = np.tile(index.roots, (batch, 1))
    edges = random.integers(-1, len(index.edge_token), (batch, blocked)).astype(np.int32)
    return history, mask, index, roots, edges, beams


def sessions(recommender: Recommender) -> FixedSearches:
    """Its sessions of fixed sizes."""
    assert recommender._fixed is not None
    return recommender._fixed


def settled(recommender: Recommender, *arguments: Any) -> BeamResult:
    """A search by a session of fixed sizes: it is opened for what comes again, and an index stays that is met twice."""
    for _ in range(4):
        recommender.search(*arguments)
    sessions(recommender).settle()
    before = used(recommender)
    found = recommender.search(*arguments)
    assert used(recommender) == before + 1
    return found


def used(recommender: Recommender) -> int:
    """How many searches ran with fixed sizes."""
    return sessions(recommender).answered


def same(found: BeamResult, expected: BeamResult) -> None:
    np.testing.assert_array_equal(found.leaf, expected.leaf)
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_allclose(found.log_prob, expected.log_prob, atol=1e-5)
    np.testing.assert_allclose(found.log_prob_by_level, expected.log_prob_by_level, atol=1e-5)


@pytest.mark.parametrize(
    ("batch", "width", "beams", "blocked", "count", "roots"),
    [(1, 9, 6, 0, 40, 1), (3, 8, 6, 3, 40, 2), (5, 1, 1, 0, 40, 3), (9, 17, 20, 5, 5, 1), (16, 2, 4, 1, 1, 1)],
)
def test_lists_are_those_of_open_sizes(  # noqa: PLR0917  one each
    pair: tuple[Recommender, Recommender], batch: int, width: int, beams: int, blocked: int, count: int, roots: int
) -> None:
    plain, fixed = pair
    arguments = asking(trie_of(items(count), roots), batch, width, beams, blocked)
    same(settled(fixed, *arguments), plain.search(*arguments))


def test_one_session_serves_all_that_pads_to_its_sizes(pair: tuple[Recommender, Recommender]) -> None:
    plain, fixed = pair
    trie = trie_of(items(40))
    settled(fixed, *asking(trie, 8, 9))
    for batch, width, seed in ((8, 16, 1), (5, 10, 2), (7, 9, 3), (8, 9, 4)):
        arguments = asking(trie, batch, width, seed=seed)
        before = used(fixed)
        same(fixed.search(*arguments), plain.search(*arguments))
        assert used(fixed) == before + 1


def test_a_patched_index_is_read_where_it_lies(pair: tuple[Recommender, Recommender]) -> None:
    plain, fixed = pair
    trie = trie_of(items(40))
    best = settled(fixed, *asking(trie, 2)).tokens[0, 0]
    trie.delete(0, best)
    arguments = asking(trie, 2)
    before = used(fixed)
    found = fixed.search(*arguments)
    assert used(fixed) == before + 1
    assert not (found.tokens == best).all(axis=2).any()
    same(found, plain.search(*arguments))


def test_an_index_that_is_sent_again_is_read_where_it_lies_then(
    pair: tuple[Recommender, Recommender], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, fixed = pair
    trie = trie_of(items(40))
    settled(fixed, *asking(trie, 2))
    monkeypatch.setattr("service.engine.resident._fits", lambda *_: False)
    for seed in range(8):
        trie.delete(0, fixed.search(*asking(trie, 2)).tokens[0, 0])
        arguments = asking(trie, 2, seed=seed)
        same(fixed.search(*arguments), plain.search(*arguments))
    searches = [each.result() for each in sessions(fixed)._searches.values() if each.done()]
    assert sum(len(each._bound) for each in searches if each is not None) == 1


def test_copies_of_indexes_that_have_gone_are_given_up(pair: tuple[Recommender, Recommender]) -> None:
    plain, fixed = pair
    resident = fixed._resident
    assert resident is not None
    gone, stays = trie_of(items(40)), trie_of(items(30, seed=1))
    for batch in (1, 3):
        settled(fixed, *asking(gone, batch))
    (copy,) = resident._copies.values()
    assert copy._shown is not None
    arrays = [weakref.ref(array) for array in copy._shown.arrays.values()]
    del gone, copy
    settled(fixed, *asking(stays, 1))
    gc.collect()
    assert not any(array() for array in arrays)
    same(fixed.search(*asking(stays, 1)), plain.search(*asking(stays, 1)))


def test_a_recommender_that_has_gone_leaves_no_thread(path: Path) -> None:
    before = set(threading.enumerate())
    fixed = Recommender.open(path, PART, LAYOUT, CPU, ResidentIndexes(CPU), captured=True)
    settled(fixed, *asking(trie_of(items(40)), 2))
    own = set(threading.enumerate()) - before
    assert len(own) == 2
    del fixed
    for thread in own:
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_no_session_is_opened_of_a_file_that_was_replaced(path: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(path, tmp_path))
    plain = Recommender.open(path, PART, LAYOUT, CPU, ResidentIndexes(CPU))
    fixed = Recommender.open(file, PART, LAYOUT, CPU, ResidentIndexes(CPU), captured=True)
    torch.manual_seed(1)
    export_recommender(build_t5(LAYOUT, SMALL).eval(), LAYOUT, tmp_path / "other.onnx")
    (tmp_path / "other.onnx").replace(file)
    arguments = asking(trie_of(items(40)), 2)
    for _ in range(4):
        same(fixed.search(*arguments), plain.search(*arguments))
        sessions(fixed).settle()
    assert used(fixed) == 0


def test_where_no_thread_can_be_had_sizes_stay_open(
    pair: tuple[Recommender, Recommender], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain, fixed = pair
    arguments = asking(trie_of(items(40)), 2)

    def refuses(*_: object) -> Any:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(ThreadPoolExecutor, "submit", refuses)
        for _ in range(3):
            same(fixed.search(*arguments), plain.search(*arguments))
    assert "can't start new thread" in caplog.text
    same(settled(fixed, *arguments), plain.search(*arguments))


def test_two_indexes_in_turns(pair: tuple[Recommender, Recommender]) -> None:
    plain, fixed = pair
    both = [asking(trie_of(items(40, seed)), 2) for seed in (0, 1)]
    for arguments in both:
        settled(fixed, *arguments)
    for arguments in both * 2:
        same(fixed.search(*arguments), plain.search(*arguments))


def test_what_is_met_once_or_sent_along_has_open_sizes(pair: tuple[Recommender, Recommender]) -> None:
    _, fixed = pair
    trie = trie_of(items(40))
    fixed.search(*asking(trie, 2))
    sessions(fixed).settle()
    assert not sessions(fixed)._searches
    for _ in range(5):
        fixed.search(*asking(trie_of(items(40)), 2))
    assert used(fixed) == 0


def test_large_batches_have_open_sizes(pair: tuple[Recommender, Recommender]) -> None:
    _, fixed = pair
    arguments = asking(trie_of(items(40)), fixed_searches.STEPS[-1] + 1, width=2, beams=1)
    for _ in range(4):
        fixed.search(*arguments)
    assert used(fixed) == 0


def test_sizes_that_were_not_met_for_long_make_room(
    pair: tuple[Recommender, Recommender], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, fixed = pair
    monkeypatch.setattr(fixed_searches, "KEPT", 2)
    monkeypatch.setattr(fixed_searches, "PAUSE", 0)
    trie = trie_of(items(40))
    for beams in (1, 2, 3, 1):
        arguments = asking(trie, 2, beams=beams)
        same(settled(fixed, *arguments), plain.search(*arguments))
        assert len(sessions(fixed)._searches) <= 2


def test_more_sizes_than_are_kept_do_not_take_turns_at_once(
    pair: tuple[Recommender, Recommender], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, fixed = pair
    monkeypatch.setattr(fixed_searches, "KEPT", 2)
    trie = trie_of(items(40))
    for beams in (1, 2):
        settled(fixed, *asking(trie, 2, beams=beams))
    there = list(sessions(fixed)._searches)
    for beams in (3, 4, 5) * 4:
        arguments = asking(trie, 2, beams=beams)
        same(fixed.search(*arguments), plain.search(*arguments))
    sessions(fixed).settle()
    assert list(sessions(fixed)._searches) == there


def test_after_a_few_refused_sizes_no_more_are_tried(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tried: list[object] = []

    def refuses(sizes: object) -> Any:
        tried.append(sizes)
        raise UnitokError("cannot be captured")

    plain = Recommender.open(path, PART, LAYOUT, CPU, ResidentIndexes(CPU))
    fixed = replace(plain, _fixed=FixedSearches(CPU, [], refuses))
    trie = trie_of(items(40))
    for beams in range(1, 8):
        for _ in range(4):
            fixed.search(*asking(trie, 2, beams=beams))
        sessions(fixed).settle()
    assert len(tried) == fixed_searches.VAIN
    assert "all others stay with open sizes" in caplog.text


def test_refused_sizes_stay_open(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def refuses(_: object) -> Any:
        raise UnitokError("cannot be captured")

    plain = Recommender.open(path, PART, LAYOUT, CPU, ResidentIndexes(CPU))
    fixed = replace(plain, _fixed=FixedSearches(CPU, [], refuses))
    arguments = asking(trie_of(items(40)), 2)
    for _ in range(4):
        same(fixed.search(*arguments), plain.search(*arguments))
    sessions(fixed).settle()
    same(fixed.search(*arguments), plain.search(*arguments))
    assert used(fixed) == 0
    assert caplog.text.count("cannot be captured") == 1


def test_an_input_that_could_not_be_sent_is_sent_with_the_next_search(
    pair: tuple[Recommender, Recommender], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Searches that wait for the same session while it fails still run in it."""
    plain, fixed = pair
    trie = trie_of(items(40))
    settled(fixed, *asking(trie, 2))
    arguments = asking(trie, 2, seed=1)

    def fails(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(FixedSearches, "_refuse", lambda *_: None)
    with monkeypatch.context() as patch:
        patch.setattr(onnxruntime.OrtValue, "update_inplace", fails)
        same(fixed.search(*arguments), plain.search(*arguments))
    before = used(fixed)
    same(fixed.search(*arguments), plain.search(*arguments))
    same(fixed.search(*asking(trie, 2)), plain.search(*asking(trie, 2)))
    assert used(fixed) == before + 2


def test_many_threads(pair: tuple[Recommender, Recommender]) -> None:
    plain, fixed = pair
    trie = trie_of(items(40))
    asked = [asking(trie, batch, seed=batch) for batch in (1, 2, 3, 5)]
    for arguments in asked:
        settled(fixed, *arguments)
    expected, problems = [plain.search(*arguments) for arguments in asked], []

    def works(number: int) -> Callable[[], None]:
        def work() -> None:
            try:
                for _ in range(20):
                    same(fixed.search(*asked[number]), expected[number])
            except Exception as error:
                problems.append(error)

        return work

    threads = [threading.Thread(target=works(number)) for number in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems


def failing(recommender: Recommender, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Its sessions raise from now on, and note of each run whether it would have captured."""
    asked: list[bool] = []

    def fails(_: Session, __: object, ___: int, first: bool) -> bool:
        asked.append(first)
        raise RuntimeError("CUDA failure 900: operation not permitted when stream is capturing")

    monkeypatch.setattr(Session, "run_bound", fails)
    return asked


@pytest.mark.parametrize("replayed", [False, True])
def test_a_capture_or_a_replay_that_fails_is_nobodys_error(
    pair: tuple[Recommender, Recommender],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    replayed: bool,
) -> None:
    plain, fixed = pair
    trie = trie_of(items(40))
    arguments = asking(trie, 2)
    if replayed:
        settled(fixed, *arguments)
    asked = failing(fixed, monkeypatch)
    for _ in range(6):
        same(fixed.search(*arguments), plain.search(*arguments))
        sessions(fixed).settle()
    assert asked == [not replayed]
    assert caplog.text.count("CUDA failure 900") == 1
    monkeypatch.undo()
    # Other sizes go on, and what was refused stays so.
    same(settled(fixed, *asking(trie, 4)), plain.search(*asking(trie, 4)))
    before = used(fixed)
    same(fixed.search(*arguments), plain.search(*arguments))
    assert used(fixed) == before


def test_many_that_fail_at_once_say_so_once(
    pair: tuple[Recommender, Recommender], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain, fixed = pair
    arguments = asking(trie_of(items(40)), 2)
    expected = plain.search(*arguments)
    settled(fixed, *arguments)
    failing(fixed, monkeypatch)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: fixed.search(*arguments), range(32)):
            same(found, expected)
    assert caplog.text.count("CUDA failure 900") == 1


def test_what_is_wrong_with_the_inputs_is_told(
    pair: tuple[Recommender, Recommender], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, fixed = pair
    arguments = asking(trie_of(items(40)), 2)
    settled(fixed, *arguments)
    monkeypatch.setattr(Recommender, "_check_history", lambda *_: None)
    arguments[0][0, 0] = LAYOUT.vocabulary + 1000
    with pytest.raises(GraphFailed, match="failed on history"):
        fixed.search(*arguments)


def test_a_capture_does_not_wait_for_a_session_that_opens(
    pair: tuple[Recommender, Recommender], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, fixed = pair
    device = DeviceLock(captures=True)
    monkeypatch.setitem(DEVICE_LOCKS, "cpu", device)
    arguments = asking(trie_of(items(40)), 2)
    for _ in range(4):
        fixed.search(*arguments)
    sessions(fixed).settle()
    with device.together(long=True):
        before = used(fixed)
        same(fixed.search(*arguments), plain.search(*arguments))
        assert used(fixed) == before
    same(fixed.search(*arguments), plain.search(*arguments))
    assert used(fixed) == before + 1


def test_on_a_cpu_nobody_waits(pair: tuple[Recommender, Recommender]) -> None:
    plain, _ = pair
    arguments = asking(trie_of(items(40)), 2)
    with (
        DEVICE_LOCKS["cpu"].alone(),
        DEVICE_LOCKS["cuda"].alone(),
        DEVICE_LOCKS["cpu"].together(),
        ThreadPoolExecutor(1) as pool,
    ):
        assert pool.submit(plain.search, *arguments).result(timeout=60)


def test_a_capture_is_alone() -> None:
    turns, together, alone, seen = DeviceLock(captures=True), [0, 0], [0], []

    def share(number: int) -> None:
        for _ in range(200):
            with turns.together():
                together[number] += 1
                seen.append(alone[0])
                together[number] -= 1

    def capture() -> None:
        for _ in range(50):
            with turns.alone() as granted:
                assert granted
                alone[0] += 1
                seen.append(sum(together) + alone[0] - 1)
                alone[0] -= 1

    threads = [threading.Thread(target=work) for work in (partial(share, 0), partial(share, 1), capture, capture)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(seen) == {0}
