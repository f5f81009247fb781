"""Token layout and packing, against tuples as the obvious twin."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidInput
from service.id_columns import from_lists, to_lists
from service.semantic_ids import SPECIAL_TOKENS, UNKNOWN_DOMAIN_TOKEN, SemanticId, TokenLayout


@st.composite
def layouts(draw: st.DrawFn) -> TokenLayout:
    experts = draw(st.integers(1, 20))
    experts_per_item = draw(st.integers(0, min(2, experts)))
    return TokenLayout(
        levels=draw(st.integers(1, 4)),
        codes=draw(st.integers(2, 300)),
        experts=experts,
        experts_per_item=experts_per_item,
        suffixes=draw(st.integers(1, 1024)),
        domains=tuple(draw(st.lists(st.sampled_from("abcdef"), unique=True))),
        expert_first=experts_per_item == 1 and draw(st.booleans()),
    )


@st.composite
def layouts_with_values(draw: st.DrawFn) -> tuple[TokenLayout, np.ndarray]:
    layout = draw(layouts())
    rows = draw(st.lists(st.tuples(*(st.integers(0, size - 1) for size in layout.position_sizes)), min_size=1))
    return layout, np.asarray(rows, dtype=np.int32)


@given(layouts_with_values())
def test_packing_is_reversible_and_keeps_order(case: tuple[TokenLayout, np.ndarray]) -> None:
    layout, values = case
    packed = layout.pack(values)
    assert (layout.unpack(packed) == values).all()
    tuples = [tuple(row) for row in values.tolist()]
    by_packed = [tuples[i] for i in np.argsort(packed, kind="stable")]
    assert by_packed == sorted(tuples)


@given(layouts_with_values())
def test_tokens_are_reversible_and_positions_do_not_overlap(case: tuple[TokenLayout, np.ndarray]) -> None:
    layout, values = case
    tokens = layout.tokens(values)
    assert (layout.values(tokens) == values).all()
    assert tokens.min() >= SPECIAL_TOKENS
    assert tokens.max() < layout.vocabulary - len(layout.domains)
    ranges = [
        range(int(layout.position_offsets[p]), int(layout.position_offsets[p]) + layout.position_sizes[p])
        for p in sorted({*range(layout.levels), layout.levels, layout.depth - 1})
    ]
    assert len(set().union(*ranges)) == sum(len(r) for r in ranges)


def test_domain_tokens_close_the_vocabulary() -> None:
    layout = TokenLayout(levels=4, codes=256, experts=10, experts_per_item=1, suffixes=1024, domains=("a", "b"))
    assert layout.vocabulary == 3 + 1024 + 10 + 1024 + 2
    assert layout.domain_token("b") == layout.vocabulary - 1
    assert layout.domain_token("new") == UNKNOWN_DOMAIN_TOKEN


def test_token_names_leave_out_a_zero_suffix() -> None:
    layout = TokenLayout(levels=4, codes=256, experts=10, experts_per_item=1, suffixes=1024)
    assert layout.token_names(SemanticId((12, 201, 7, 88), (3,), 0)) == [
        "<a_12>",
        "<b_201>",
        "<c_7>",
        "<d_88>",
        "<e_3>",
    ]
    assert layout.token_names(SemanticId((1, 2, 3, 4), (5,), 6))[-1] == "<s_6>"


def test_every_position_has_a_name_also_a_zero_suffix() -> None:
    layout = TokenLayout(levels=2, codes=16, experts=3, experts_per_item=1, suffixes=8)
    assert layout.position_names(SemanticId((12, 7), (2,), 0)) == ["<a_12>", "<b_7>", "<c_2>", "<s_0>"]


def test_the_expert_may_be_written_first() -> None:
    plain = TokenLayout(levels=2, codes=16, experts=3, experts_per_item=1, suffixes=8)
    layout, values = replace(plain, expert_first=True), np.asarray([[12, 7, 2, 0], [1, 2, 0, 5]], dtype=np.int32)
    assert layout.tokens(values).tolist() == [[3 + 32 + 2, 3 + 12, 19 + 7, 38], [3 + 32, 3 + 1, 19 + 2, 38 + 5]]
    assert layout.position_names(SemanticId((12, 7), (2,), 0)) == ["<c_2>", "<a_12>", "<b_7>", "<s_0>"]
    assert layout.token_names(SemanticId((12, 7), (2,), 0)) == ["<c_2>", "<a_12>", "<b_7>"]
    # What a store keeps does not depend on it.
    assert (layout.pack(values) == plain.pack(values)).all()
    assert layout.semantic_id(values[0]) == plain.semantic_id(values[0])


@pytest.mark.parametrize("count", [0, 2])
def test_one_expert_can_be_written_first_not_none_or_two(count: int) -> None:
    with pytest.raises(InvalidInput, match=f"one expert an item, not with {count}"):
        TokenLayout(levels=2, codes=16, experts=3, experts_per_item=count, suffixes=8, expert_first=True)


def test_a_value_out_of_range_is_named() -> None:
    layout = TokenLayout(levels=2, codes=16, experts=3, experts_per_item=1, suffixes=8)
    with pytest.raises(InvalidInput, match=r"semantic ID 1, position 0: 16 is not within 0\.\.15"):
        layout.pack(np.asarray([[0, 0, 0, 0], [16, 0, 0, 0]], dtype=np.int32))


def test_a_layout_wider_than_eight_bytes_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at most 64 fit"):
        TokenLayout(levels=8, codes=256, experts=10, experts_per_item=1, suffixes=1024)


def test_without_a_router_no_token_names_an_expert() -> None:
    layout = TokenLayout(levels=2, codes=16, experts=1, experts_per_item=0, suffixes=8)
    assert (layout.depth, layout.vocabulary) == (3, 3 + 32 + 8)
    assert layout.position_offsets.tolist() == [3, 19, 35]
    identity = layout.semantic_id(np.array([5, 9, 1], dtype=np.int32))
    assert identity == SemanticId((5, 9), (), 1)
    assert layout.token_names(identity) == ["<a_5>", "<b_9>", "<s_1>"]


@pytest.mark.parametrize("width", [0, 3])
def test_list_columns_are_read_as_they_were_written(width: int) -> None:
    values = np.arange(4 * width, dtype=np.int32).reshape(4, width)
    read = from_lists(to_lists(values), width)
    assert read.dtype == np.int32
    np.testing.assert_array_equal(read, values)
    with pytest.raises(ValueError, match=f"row 0: {width} numbers, but there must be 2"):
        from_lists(to_lists(values), 2)


def test_a_missing_number_in_a_list_column_is_named() -> None:
    with pytest.raises(ValueError, match="'codes', row 1: a number is missing"):
        from_lists(pl.Series("codes", [[1, 2], [3, None]]), 2)
