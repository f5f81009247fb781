"""Metrics against figures worked out by hand, and against slow twins."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.measures.ranking import (
    item_ranks,
    most_popular,
    random_within_tuples,
    ranking_figures,
    tuple_ranks,
)


def test_ranks_by_hand() -> None:
    lists = np.asarray([[4, 2, 7], [1, -1, -1], [3, 0, 5]])
    assert item_ranks(lists, np.asarray([7, 1, 9])).tolist() == [2, 0, 3]


def test_figures_by_hand() -> None:
    figures = ranking_figures(np.asarray([0, 2, 5, 9, 10, 20]))
    assert figures.recall_5 == pytest.approx(2 / 6)
    assert figures.recall_10 == pytest.approx(4 / 6)
    assert figures.ndcg_5 == pytest.approx((1 + 1 / 2) / 6)
    assert figures.ndcg_10 == pytest.approx((1 + 1 / 2 + 1 / math.log2(7) + 1 / math.log2(11)) / 6)


def test_no_user_scores_nothing() -> None:
    assert set(ranking_figures(np.zeros(0, dtype=np.int64)).as_dict().values()) == {0.0}


def test_tuple_ranks_by_hand() -> None:
    # Items 0 and 1 share a tuple, so do 2 and 3; the second list repeats a tuple before the hit.
    group_of = np.asarray([0, 0, 1, 1, 2])
    lists = np.asarray([[1, 4, 2], [2, 3, 4], [2, 3, -1]])
    assert tuple_ranks(lists, np.asarray([0, 4, 0]), group_of).tolist() == [0, 1, 3]


@given(
    st.lists(st.integers(0, 3), min_size=6, max_size=6),
    st.lists(st.tuples(st.permutations(list(range(6))), st.integers(0, 6), st.integers(0, 5)), min_size=1, max_size=5),
)
def test_tuple_ranks_equal_a_walk_through_the_list(
    group_of: list[int], users: list[tuple[list[int], int, int]]
) -> None:
    lists = [order[:kept] + [-1] * (6 - kept) for order, kept, _ in users]
    targets = [target for _, _, target in users]

    def walk(ranked: list[int], target: int) -> int:
        distinct: list[int] = []
        for item in ranked:
            if item >= 0 and group_of[item] not in distinct:
                distinct.append(group_of[item])
        return distinct.index(group_of[target]) if group_of[target] in distinct else 6

    found = tuple_ranks(np.asarray(lists), np.asarray(targets), np.asarray(group_of))
    assert found.tolist() == [walk(*pair) for pair in zip(lists, targets, strict=True)]


def test_a_tuple_hit_is_never_worse_than_an_item_hit() -> None:
    rng = np.random.default_rng(0)
    group_of = rng.integers(0, 10, 50)
    lists = np.stack([rng.permutation(50)[:20] for _ in range(40)])
    targets = rng.integers(0, 50, 40)
    assert (tuple_ranks(lists, targets, group_of) <= item_ranks(lists, targets)).all()


def test_popularity_counts_and_breaks_ties_by_number() -> None:
    assert most_popular(np.asarray([3, 1, 3, 0, 1, 3]), 5, 3).tolist() == [3, 1, 0]
    assert most_popular(np.asarray([2]), 3, 10).tolist() == [2, 0, 1]
    many = np.random.default_rng(0).integers(0, 200, 300)
    counts = np.bincount(many, minlength=200).tolist()
    assert most_popular(many, 200, 150).tolist() == sorted(range(200), key=lambda item: (-counts[item], item))[:150]


def test_a_random_list_hits_as_often_as_arithmetic_says() -> None:
    """Of n items, a random list of ten holds the target with probability 10 / n, at each rank alike."""
    rng, users, items = np.random.default_rng(1), 4000, 50
    lists = np.stack([rng.permutation(items)[:20] for _ in range(users)])
    figures = ranking_figures(item_ranks(lists, rng.integers(0, items, users)))
    for k, recall, ndcg in ((5, figures.recall_5, figures.ndcg_5), (10, figures.recall_10, figures.ndcg_10)):
        expected = sum(1 / math.log2(rank + 2) for rank in range(k)) / items
        assert recall == pytest.approx(k / items, abs=4 * math.sqrt(k / items / users))
        assert ndcg == pytest.approx(expected, abs=4 * math.sqrt(k / items / users))


def test_shuffling_within_tuples_by_hand() -> None:
    group_of = np.asarray([0, 1, 0, 2, 1])
    lists = np.asarray([[3, 2, 0, -1], [1, 0, -1, -1], [-1, -1, -1, -1]])
    shuffled = random_within_tuples(lists, group_of, np.random.default_rng(0))
    assert shuffled[0, 0] == 3
    assert sorted(shuffled[0, 1:3].tolist()) == [0, 2]
    assert shuffled[0, 3] == -1
    assert sorted(shuffled[1, :2].tolist()) == [1, 4]  # item 4 was not found, but nothing tells it from item 1
    assert sorted(shuffled[1, 2:].tolist()) == [0, 2]
    assert shuffled[2].tolist() == [-1] * 4


def test_what_was_left_out_does_not_come_back_with_its_tuple() -> None:
    group_of = np.asarray([0, 0, 0, 1, 1])
    lists, histories = np.asarray([[1, 3, -1], [3, 4, -1]]), [np.asarray([0, 4]), np.asarray([], dtype=np.int64)]
    shuffled = random_within_tuples(lists, group_of, np.random.default_rng(0), histories)
    assert sorted(shuffled[0, :2].tolist()) == [1, 2]
    assert shuffled[0, 2] == 3
    assert sorted(shuffled[1, :2].tolist()) == [3, 4]


def test_a_tuple_of_many_items_hits_by_chance() -> None:
    """The right tuple stands first; of its twenty items each is as likely as another to be the target's place."""
    rng, users, size = np.random.default_rng(2), 4000, 20
    group_of = np.repeat([0, 1], [size, 5])
    lists = np.tile(np.concatenate([[7], np.arange(size, size + 5), np.full(14, -1)]), (users, 1))
    targets = rng.integers(0, size, users)
    figures = ranking_figures(item_ranks(random_within_tuples(lists, group_of, rng), targets))
    assert figures.recall_10 == pytest.approx(10 / size, abs=0.04)
    assert figures.recall_5 == pytest.approx(5 / size, abs=0.04)
    assert figures.ndcg_10 == pytest.approx(sum(1 / math.log2(rank + 2) for rank in range(10)) / size, abs=0.02)
    assert ranking_figures(tuple_ranks(lists, targets, group_of)).ndcg_5 == 1.0
