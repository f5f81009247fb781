"""Checks of precomputed embeddings: one row per item, all finite, none of length zero.

Knows nothing of where they come from or who uses them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidInput
from training.data.report import EXAMPLES


def check_embeddings(matrix: NDArray[np.generic], ids: Sequence[str], file: str) -> None:
    """Refuse embeddings that cannot be used.

    Parameters
    ----------
    matrix : [n, D], floating point
    ids : n item ids, one per row
    file : source of the matrix, for the message

    Raises
    ------
    InvalidInput : not a matrix of n rows, no columns, not floating point, a NaN or an infinity, or a row of zeros; the
        first bad rows are listed with their items
    """
    if matrix.ndim != 2 or len(matrix) != len(ids) or matrix.shape[1] == 0:
        raise InvalidInput(
            f"{file}: shape {matrix.shape}, but [{len(ids)}, D] is expected: one row an item, D at least 1"
        )
    if not np.issubdtype(matrix.dtype, np.floating):
        raise InvalidInput(f"{file}: type {matrix.dtype}; embeddings are floating point, float32 at best")
    not_finite = ~np.isfinite(matrix).all(axis=1)
    zero = ~matrix.any(axis=1)
    bad = np.flatnonzero(not_finite | zero)
    if not len(bad):
        return
    lines = [_describe(matrix[row], int(row), ids[row]) for row in bad[:EXAMPLES]]
    raise InvalidInput(
        f"{file}: {int(not_finite.sum()):,} rows with a NaN or an infinity, {int(zero.sum()):,} rows of zeros; "
        "every item needs a finite vector that is not zero:\n" + "\n".join(lines)
    )


def _describe(vector: NDArray[np.generic], row: int, item_id: str) -> str:
    columns = np.flatnonzero(~np.isfinite(vector))
    what = f"column {columns[0]} is {vector[columns[0]]}" if len(columns) else "all columns are 0"
    return f"  row {row}, item {item_id!r}: {what}"
