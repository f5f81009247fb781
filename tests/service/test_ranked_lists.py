"""Ties may be broken either way; everything else is a difference."""

from __future__ import annotations

import numpy as np
import pytest

from service.ranked_lists import compare_lists

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
