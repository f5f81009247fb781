"""Who is measured: drawn once, the same whoever asks, and as evenly over groups as these allow."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.data.split import Examples
from training.evaluation.users import even_shares


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
