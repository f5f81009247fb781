"""Items that share an ID are moved apart: against exhaustive search, and by what must hold of any repair."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from training.evaluation.id_quality import id_quality
from training.tokenizer.repair import Repaired, repair

Array = np.ndarray[Any, Any]
CODES = 5


def nearest(distances: Array) -> Array:
    return distances.argmin(axis=1).astype(np.int32)


@st.composite
def catalogues(draw: st.DrawFn) -> tuple[Array, Array, list[str], Array]:
    """codes [n, 2], experts [n, 1], texts, distances [n, T]; items of equal text are equal in everything."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    contents = rng.integers(0, 8, size=draw(st.integers(1, 14)))
    distances = rng.random((8, CODES)).astype(np.float32)
    first, experts = rng.integers(0, 2, size=(8, 1)), rng.integers(0, 2, size=(8, 1))
    codes = np.concatenate([first, nearest(distances)[:, None]], axis=1).astype(np.int32)
    return codes[contents], experts[contents].astype(np.int32), [f"text {c}" for c in contents], distances[contents]


def contents_by_id(codes: Array, experts: Array, texts: list[str]) -> dict[tuple[int, ...], set[str]]:
    found: dict[tuple[int, ...], set[str]] = {}
    for code, expert, text in zip(codes, experts, texts, strict=True):
        found.setdefault((*code, *expert), set()).add(text)
    return found


@settings(deadline=None)
@given(catalogue=catalogues())
def test_no_content_shares_an_id_and_no_more_contents_move_than_must(
    catalogue: tuple[Array, Array, list[str], Array],
) -> None:
    codes, experts, texts, distances = catalogue
    repaired: Repaired = repair(codes, experts, texts, lambda rows: distances[rows])
    after = contents_by_id(repaired.codes, experts, texts)
    below: dict[tuple[int, ...], set[str]] = {}
    for key, own in after.items():
        below.setdefault((key[0], key[2]), set()).update(own)
    for key, own in after.items():
        assert len(own) == 1 or len(below[key[0], key[2]]) > CODES
    assert (repaired.codes[:, 0] == codes[:, 0]).all()
    assert (repaired.moved == (repaired.codes[:, 1] != codes[:, 1])).all()
    # Equal content stays together.
    by_text: dict[str, set[tuple[int, ...]]] = {}
    for code, text in zip(repaired.codes, texts, strict=True):
        by_text.setdefault(text, set()).add(tuple(code))
    assert all(len(ids) == 1 for ids in by_text.values())
    # One content a code stays, the others move: nothing else does.
    moved = {text for text, is_moved in zip(texts, repaired.moved, strict=True) if is_moved}
    if all(len(own) <= CODES for own in below.values()):
        assert len(moved) == sum(len(own) - 1 for own in contents_by_id(codes, experts, texts).values())


def test_what_moves_goes_where_the_sum_of_distances_is_least() -> None:
    rng = np.random.default_rng(3)
    distances = rng.random((3, CODES)).astype(np.float32)
    distances[:, 0] = [0.0, 0.01, 0.02]  # all three want code 0; the first is nearest to it
    codes = np.zeros((3, 1), dtype=np.int32)
    repaired = repair(codes, np.zeros((3, 1), dtype=np.int32), ["a", "b", "c"], lambda rows: distances[rows])
    assert repaired.codes[0, 0] == 0
    best = min(permutations(range(1, CODES), 2), key=lambda pair: distances[1, pair[0]] + distances[2, pair[1]])
    assert tuple(repaired.codes[1:, 0]) == best


def test_the_content_of_most_items_keeps_its_code() -> None:
    distances = np.array([[0.0, 1.0], [0.1, 1.0], [0.1, 1.0]], dtype=np.float32)
    codes = np.zeros((3, 1), dtype=np.int32)
    repaired = repair(codes, np.zeros((3, 1), dtype=np.int32), ["near", "often", "often"], lambda rows: distances[rows])
    assert repaired.codes[:, 0].tolist() == [1, 0, 0]
    assert repaired.moved.tolist() == [True, False, False]


def test_without_a_collision_nothing_is_asked_or_moved() -> None:
    codes = np.array([[0, 1], [0, 2], [1, 1]], dtype=np.int32)

    def never(rows: Array) -> Array:
        raise AssertionError("asked for distances")

    repaired = repair(codes, np.zeros((3, 1), dtype=np.int32), ["a", "b", "c"], never)
    assert (repaired.codes == codes).all()
    assert not repaired.moved.any()


def test_items_without_text_are_moved_apart_as_other_contents_are() -> None:
    distances = np.tile([[0.0, 1.0, 2.0, 3.0, 4.0]], (4, 1)) + np.arange(4)[:, None] / 10
    codes, experts = np.zeros((4, 1), dtype=np.int32), np.zeros((4, 1), dtype=np.int32)
    texts = ["", "a", "", "a"]
    before, repaired = id_quality(codes, experts, texts), repair(codes, experts, texts, lambda rows: distances[rows])
    assert (before.distinct_contents, before.sharing_beyond_equal_content) == (3, 1.0)
    assert repaired.codes[:, 0].tolist() == [1, 0, 2, 0]
    assert id_quality(repaired.codes, experts, texts).sharing_beyond_equal_content == 0.0


def test_items_of_one_text_that_already_differ_are_not_put_on_one_id() -> None:
    """Vectors from elsewhere differ where the text does not."""
    distances = np.random.default_rng(0).random((4, CODES))
    codes = np.array([[0], [1], [0], [0]], dtype=np.int32)
    repaired = repair(codes, np.zeros((4, 1), dtype=np.int32), ["a", "a", "a", "b"], lambda rows: distances[rows])
    assert repaired.codes[:3, 0].tolist() == [0, 1, 0]
    assert repaired.codes[3, 0] > 1
