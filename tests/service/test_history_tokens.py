"""Histories as tokens equal a slow twin that appends token by token."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.history_tokens import history_tokens, item_token_counts
from service.errors import InvalidInput
from service.semantic_ids import PAD_TOKEN, IntArray, TokenLayout

LAYOUT = TokenLayout(levels=3, codes=5, experts=4, experts_per_item=2, suffixes=3, domains=("a", "b"))


def slow(histories: list[list[list[int]]], max_history: int, leads: list[int] | None) -> tuple[IntArray, IntArray]:
    """Token by token, with plain lists."""
    rows = []
    for number, history in enumerate(histories):
        row = [] if leads is None else [leads[number]]
        for item in history[-max_history:]:
            names = LAYOUT.tokens(np.asarray([item], dtype=np.int32))[0].tolist()
            row += names if item[-1] else names[:-1]
        rows.append(row or [PAD_TOKEN])
    width = max((len(row) for row in rows), default=1)
    tokens = [row + [PAD_TOKEN] * (width - len(row)) for row in rows]
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    return np.asarray(tokens).reshape(-1, width), np.asarray(mask).reshape(-1, width)


item = st.tuples(*(st.integers(0, size - 1) for size in LAYOUT.position_sizes)).map(list)
batches = st.lists(st.lists(item, max_size=6), max_size=5)


@given(batches, st.integers(1, 4), st.booleans())
def test_equals_the_slow_twin(histories: list[list[list[int]]], max_history: int, lead: bool) -> None:
    leads = [LAYOUT.domain_token("ab"[number % 2]) for number in range(len(histories))] if lead else None
    values = np.asarray([each for history in histories for each in history], dtype=np.int32).reshape(-1, LAYOUT.depth)
    row_splits = np.cumsum([0] + [len(history) for history in histories])
    found = history_tokens(
        LAYOUT, values, row_splits, max_history, None if leads is None else np.asarray(leads, dtype=np.int64)
    )
    tokens, mask = slow(histories, max_history, leads)
    np.testing.assert_array_equal(found.tokens, tokens)
    np.testing.assert_array_equal(found.mask, mask)
    assert found.tokens.dtype == found.mask.dtype == np.int64


def test_counts_are_the_tokens_written() -> None:
    values = np.asarray([[1, 2, 3, 0, 1, 0], [1, 2, 3, 0, 1, 2]], dtype=np.int32)
    assert item_token_counts(values).tolist() == [5, 6]
    alone = history_tokens(LAYOUT, values, np.asarray([0, 1, 2]), 20)
    assert alone.mask.sum(axis=1).tolist() == [5, 6]


def test_an_empty_history_is_one_token_that_is_read() -> None:
    found = history_tokens(LAYOUT, np.zeros((0, LAYOUT.depth), dtype=np.int32), np.asarray([0, 0]), 20)
    assert found.tokens.tolist() == [[PAD_TOKEN]]
    assert found.mask.tolist() == [[1]]


@pytest.mark.parametrize("row_splits", [[0, 1], [1, 2], [0, 2, 1, 2], []])
def test_wrong_row_splits_are_refused(row_splits: list[int]) -> None:
    values = np.zeros((2, LAYOUT.depth), dtype=np.int32)
    with pytest.raises(InvalidInput, match="row_splits must rise from 0 to the number of items, 2"):
        history_tokens(LAYOUT, values, np.asarray(row_splits, dtype=np.int64), 20)


def test_a_history_of_no_items_at_most_is_refused() -> None:
    with pytest.raises(InvalidInput, match="max_history is 0"):
        history_tokens(LAYOUT, np.zeros((0, LAYOUT.depth), dtype=np.int32), np.asarray([0]), 0)
