"""Who is measured: drawn once, the same whoever asks, and as evenly over groups as these allow."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.split import Examples
from training.measures.users import evaluated_users, even_shares


def examples_of(count: int) -> Examples:
    """Examples that can be told apart by any of their arrays."""
    numbers = np.arange(count)
    return Examples(numbers + 1000, (numbers * 7 % 1009).astype(np.int32), numbers * 10, numbers * 10 + 4)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(0, 200))
def test_shares_are_even_as_far_as_groups_allow(sizes: list[int], total: int) -> None:
    shares = even_shares(sizes, total)
    assert sorted(place for place, _ in shares) == list(range(len(sizes)))
    assert [sizes[place] for place, _ in shares] == sorted(sizes)
    assert sum(share for _, share in shares) == min(total, sum(sizes))
    # Who has not given all that it has gives as much as anybody, but for what does not divide.
    most = max(share for _, share in shares)
    assert all(share == sizes[place] or most - share <= 1 for place, share in shares)


def test_what_small_groups_lack_is_taken_from_larger_ones() -> None:
    assert dict(even_shares([100, 3, 0, 50], 43)) == {2: 0, 1: 3, 3: 20, 0: 20}
    assert even_shares([5, 5], 3) == [(0, 2), (1, 1)]


def rows_of(drawn: Examples, all_of_them: Examples) -> list[int]:
    """Which rows were drawn; every array must say the same."""
    rows = (drawn.users - 1000).tolist()
    for name in ("users", "targets", "starts", "stops"):
        assert getattr(drawn, name).tolist() == getattr(all_of_them, name)[rows].tolist()
    return rows


def test_users_are_drawn_once_each_and_stay_in_their_order() -> None:
    examples = examples_of(300)
    rows = rows_of(evaluated_users(examples, 120, 3), examples)
    assert len(rows) == 120
    assert all(before < after for before, after in pairwise(rows)), "none twice, in the order in which they were"
    assert rows != list(range(120))
    # From everywhere: by chance, of 120 of 300 about 40 lie in each third, give or take 5.
    assert all(20 < sum(first <= row < first + 100 for row in rows) < 60 for first in (0, 100, 200))


def test_who_is_drawn_is_told_by_the_seed_alone() -> None:
    examples = examples_of(300)
    drawn = {seed: rows_of(evaluated_users(examples, 30, seed), examples) for seed in (0, 1)}
    assert drawn[0] == rows_of(evaluated_users(examples, 30, 0), examples)
    assert drawn[0] != drawn[1]
    # These are the users of every figure with `max_users` that was ever written down.
    assert drawn[0] == np.sort(np.random.default_rng(0).permutation(300)[:30]).tolist()


@pytest.mark.parametrize("max_users", [None, 40, 41])
def test_all_are_measured_where_no_more_are_there(max_users: int | None) -> None:
    examples = examples_of(40)
    assert rows_of(evaluated_users(examples, max_users, 0), examples) == list(range(40))
