"""Ties may be broken either way; everything else is a difference."""

from __future__ import annotations

import numpy as np
import pytest

from service.ranked_lists import BEST, Kept, compare_best, compare_lists

NONE = -np.inf


def compare(expected: list[tuple[int, float]], found: list[tuple[int, float]]) -> tuple[bool, int]:
    sides = []
    for side in (expected, found):
        sides.append(np.asarray([[item, 7] for item, _ in side], dtype=np.int32))
        sides.append(np.asarray([score for _, score in side], dtype=np.float32))
    compared = compare_lists(*sides)
    return compared.problem is None, compared.ties


@pytest.mark.parametrize(
    ("expected", "found", "same", "ties"),
    [
        ([(1, -1.0), (2, -2.0)], [(1, -1.0), (2, -2.00001)], True, 0),
        ([(1, -1.0), (2, -1.00005)], [(2, -1.00005), (1, -1.0)], True, 2),
        ([(1, -1.0), (2, -2.0)], [(1, -1.0), (3, -2.00005)], True, 1),  # lost a tie for the last place
        ([(1, -1.0), (2, -2.0)], [(3, -1.0), (2, -2.0)], False, 0),  # a stranger above the last place
        ([(1, -1.0), (2, -2.0)], [(2, -1.0), (1, -2.0)], False, 0),
        ([(1, -1.0), (2, -2.0)], [(1, -1.0), (2, -2.1)], False, 0),
        ([(1, -1.0), (0, NONE)], [(1, -1.0), (0, NONE)], True, 0),
        ([(1, -1.0), (0, NONE)], [(1, -1.0), (2, -2.0)], False, 0),
        ([(0, NONE), (0, NONE)], [(0, NONE), (0, NONE)], True, 0),
    ],
)
def test_lists_are_the_same_up_to_ties(
    expected: list[tuple[int, float]], found: list[tuple[int, float]], same: bool, ties: int
) -> None:
    assert compare(expected, found) == (same, ties)


def test_the_problem_names_the_tensor_the_rank_and_the_values() -> None:
    tokens = np.asarray([[5, 6], [5, 9]], dtype=np.int32)
    score = np.asarray([-1.0, -2.0], dtype=np.float32)
    worse = score - np.asarray([0.0, 0.5], dtype=np.float32)
    assert compare_lists(tokens, score, tokens, worse).problem == (
        "log_prob: at rank 1 -2.500000, but -2.000000 is right"
    )
    assert (compare_lists(tokens, score, tokens[::-1], score).problem or "").startswith("semantic_id: at rank 0 [5, 9]")
    assert (
        compare_lists(tokens, score, tokens, np.full(2, NONE, np.float32)).problem == "leaf: 0 results, but 2 are right"
    )


def test_best_items_are_counted_and_scores_compared_item_by_item() -> None:
    ranks = np.arange(BEST + 2)
    tokens, scores = np.stack([ranks, ranks], axis=1).astype(np.int32), -ranks.astype(np.float32)
    # The last of the ten best and the next change places, an item of lower rank is lost, and another one's score moves.
    order = [*range(BEST - 1), BEST, BEST - 1]
    found, found_score = tokens[order], scores[order] + np.float32(0.5) * (np.asarray(order) == 3)
    assert compare_best(tokens, scores, found, found_score) == Kept(BEST, BEST - 1, 0.5)


def test_what_is_no_result_is_not_among_the_best() -> None:
    tokens = np.asarray([[1, 7], [2, 7], [0, 0]], dtype=np.int32)
    scores = np.asarray([-1.0, -2.0, NONE], dtype=np.float32)
    assert compare_best(tokens, scores, tokens, scores) == Kept(2, 2, 0.0)
    assert compare_best(tokens, scores, tokens[1:], scores[1:]) == Kept(2, 1, 0.0)
