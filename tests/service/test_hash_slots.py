"""The hash table from hashes to rows, against a plain list of hashes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.catalogue.hash_slots import FULLEST, SMALLEST, HashSlots

LAST = SMALLEST - 1
"""The hash whose slot is the last one, behind which the first one comes."""

HASHES = st.one_of(
    st.integers(0, 2**32 - 1), st.sampled_from([0, 1, LAST - 1, LAST, LAST + SMALLEST, 2**32 - 1, 2**32 - SMALLEST])
)


@settings(max_examples=100)
@given(st.lists(st.lists(HASHES, max_size=40), max_size=6), st.booleans())
def test_every_row_is_found_by_its_hash(added: list[list[int]], goes_on: bool) -> None:
    slots, hashes = HashSlots(), list[int]()
    for some in added:
        slots.place(np.arange(len(hashes), len(hashes) + len(some)), np.array(some, dtype=np.uint32))
        hashes += some
        if goes_on:
            slots = HashSlots(slots.values)
    for row, hashed in enumerate(hashes):
        found = list(slots.rows(hashed))
        assert row in found
        assert len(found) == len(set(found))
    absent = next(hashed for hashed in range(SMALLEST // 2, SMALLEST) if hashed not in hashes)
    assert set(slots.rows(absent)) <= set(range(len(hashes)))


@pytest.mark.parametrize("goes_on", [False, True])
def test_so_many_rows_fit_that_looking_up_what_is_not_there_ends(goes_on: bool) -> None:
    slots, most = HashSlots(), int(SMALLEST * FULLEST)
    assert slots.fits(most)
    assert not slots.fits(most + 1)
    slots.place(np.arange(most), np.full(most, LAST, dtype=np.uint32))
    if goes_on:
        slots = HashSlots(slots.values)
    assert slots.fits(0)
    assert not slots.fits(1)
    assert sorted(slots.rows(LAST)) == list(range(most))
    assert list(slots.rows(LAST - 1)) == []


@pytest.mark.parametrize("count", [0, 1, 620, 621, 1000, 5000, 100_000])
def test_slots_for_rows_have_room_for_a_tenth_more(count: int) -> None:
    slots = HashSlots.for_rows(count)
    assert slots.fits(int(count * 1.1))
    assert len(slots.values) & (len(slots.values) - 1) == 0
    assert len(slots.values) == SMALLEST or len(slots.values) / 2 * FULLEST < count * 1.1, "and not for twice as many"
