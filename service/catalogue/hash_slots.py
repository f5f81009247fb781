"""Hash table from 32-bit hashes to rows: open addressing, one int32 per slot. Independent of what a row is.

Rows are never removed; the caller checks whether a row found is the right one. Look-ups are safe while another thread
adds rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

SMALLEST = 1024

FULLEST = 2 / 3
"""Maximum load factor."""


class HashSlots:
    """The slots; a slot holds a row's number plus 1, or 0 if empty.

    Parameters
    ----------
    values : int32 [a power of two], initial slots
    """

    def __init__(self, values: NDArray[np.int32] | None = None) -> None:
        self.values = np.zeros(SMALLEST, dtype=np.int32) if values is None else values
        self._taken = 0 if values is None else int(np.count_nonzero(values))

    @classmethod
    def for_rows(cls, count: int) -> HashSlots:
        """Empty slots for `count` rows plus 10 %."""
        size = SMALLEST
        while size * FULLEST < count * 1.1:
            size *= 2
        return cls(np.zeros(size, dtype=np.int32))

    def fits(self, count: int) -> bool:
        """Whether `count` more rows stay within the load factor."""
        return self._taken + count <= len(self.values) * FULLEST

    def rows(self, hashed: int) -> Iterator[int]:
        """Candidate rows for a hash; some may have another hash."""
        values = self.values
        mask = len(values) - 1
        at = hashed & mask
        while row := values.item(at):
            yield row - 1
            at = (at + 1) & mask

    def place(self, rows: NDArray[np.int64], hashed: NDArray[np.uint32]) -> None:
        """Add rows with their hashes, both [n]; vectorised."""
        values = self.values
        at = hashed.astype(np.int64) & (len(values) - 1)
        self._taken += len(rows)
        while len(rows):
            empty = values[at] == 0
            # If several rows want a slot, the last one gets it; the others probe further.
            values[at[empty]] = rows[empty] + 1
            seated = values[at] == rows + 1
            rows, at = rows[~seated], (at[~seated] + 1) & (len(values) - 1)
