"""The vectorised k-core equals a slow twin that removes one user or item at a time."""

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from training.data.core import core_mask, number

pairs_strategy = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=60)


def slow_core(pairs: list[tuple[int, int]], k: int) -> list[bool]:
    kept = dict(enumerate(pairs))
    while True:
        for side in (0, 1):
            counts: dict[int, int] = {}
            for pair in kept.values():
                counts[pair[side]] = counts.get(pair[side], 0) + 1
            weak = next((value for value, count in counts.items() if count < k), None)
            if weak is not None:
                kept = {at: pair for at, pair in kept.items() if pair[side] != weak}
                break
        else:
            return [at in kept for at in range(len(pairs))]


@given(pairs_strategy, st.integers(1, 5))
def test_core_equals_the_slow_twin(pairs: list[tuple[int, int]], k: int) -> None:
    users = np.asarray([user for user, _ in pairs], dtype=np.int64)
    items = np.asarray([item for _, item in pairs], dtype=np.int64)
    assert core_mask(users, items, k).tolist() == slow_core(pairs, k)


@given(st.lists(st.sampled_from("abcde")))
def test_number_counts_by_first_appearance(values: list[str]) -> None:
    order = list(dict.fromkeys(values))
    assert number(pl.Series(values, dtype=pl.String)).tolist() == [order.index(value) for value in values]
