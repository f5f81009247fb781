"""A hash table from 32-bit hashes to rows: one int32 a slot, open addressing. Knows nothing of what a row is.

Rows are never taken out; whoever finds one decides whether it is meant. Looking up is safe while another thread adds
rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

SMALLEST = 1024

FULLEST = 2 / 3
"""Share of the slots that may be taken."""


class HashSlots:
    """Slots; a slot holds a row's number and 1, or 0 where it is empty.

    Parameters
    ----------
    values : int32 [a power of two], slots to go on from
    """

    def __init__(self, values: NDArray[np.int32] | None = None) -> None:
        self.values = np.zeros(SMALLEST, dtype=np.int32) if values is None else values
        self._taken = 0 if values is None else int(np.count_nonzero(values))

    @classmethod
    def for_rows(cls, count: int) -> HashSlots:
        """Empty slots for so many rows and a tenth as many more."""
        size = SMALLEST
        while size * FULLEST < count * 1.1:
            size *= 2
        return cls(np.zeros(size, dtype=np.int32))

    def fits(self, count: int) -> bool:
        """Whether so many more rows leave enough slots empty."""
        return self._taken + count <= len(self.values) * FULLEST

    def rows(self, hashed: int) -> Iterator[int]:
        """Rows that may have this hash, and some that have another."""
        values = self.values
        mask = len(values) - 1
        at = hashed & mask
        while row := values.item(at):
            yield row - 1
            at = (at + 1) & mask

    def place(self, rows: NDArray[np.int64], hashed: NDArray[np.uint32]) -> None:
        """Add rows with their hashes, both [n], all at once."""
        values = self.values
        at = hashed.astype(np.int64) & (len(values) - 1)
        self._taken += len(rows)
        while len(rows):
            empty = values[at] == 0
            # Of rows that want one slot the last one gets it; the others go on looking.
            values[at[empty]] = rows[empty] + 1
            seated = values[at] == rows + 1
            rows, at = rows[~seated], (at[~seated] + 1) & (len(values) - 1)
