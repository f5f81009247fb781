"""Converts codes and experts between int32 matrices and list columns of a table.

A matrix may have zero columns: semantic IDs of a tokenizer without a router hold no expert. Knows nothing of what the
numbers mean.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from service.semantic_ids import IntArray


class BadList(ValueError):
    """A list has the wrong length or a missing number.

    Attributes
    ----------
    row, why : row of the list, and what is wrong with it
    """

    def __init__(self, column: str, row: int, why: str) -> None:
        super().__init__(f"column {column!r}, row {row}: {why}")
        self.row = row
        self.why = why


def to_lists(values: IntArray) -> pl.Series:
    """Convert int32 [n, m] to n lists of m numbers; m may be 0."""
    if values.shape[1] == 0:
        return pl.Series([[]] * len(values), dtype=pl.List(pl.Int32))
    return pl.Series(np.ascontiguousarray(values)).arr.to_list().cast(pl.List(pl.Int32))


def from_lists(lists: pl.Series, width: int) -> IntArray:
    """Convert n lists of `width` whole numbers each to int32 [n, width].

    Raises
    ------
    BadList : a list has the wrong length, or a number in it is missing
    """
    lengths = lists.list.len()
    if (lengths != width).any():
        row = int((lengths != width).arg_max() or 0)
        raise BadList(lists.name, row, f"{lengths[row]} numbers, but there must be {width}")
    if width == 0:
        return np.empty((len(lists), 0), dtype=np.int32)
    numbers = lists.cast(pl.List(pl.Int32)).explode()
    if numbers.has_nulls():
        row = (numbers.is_null().arg_max() or 0) // width
        raise BadList(lists.name, row, "a number is missing")
    return numbers.to_numpy().reshape(-1, width)
