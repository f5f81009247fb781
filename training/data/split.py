"""Leave-one-out by time: the last item of a user is for test, the last but one for validation, the rest for training.

A split is a matter of position, so nothing is copied: an example is a target and a stretch of the history before it.
Knows nothing of files, semantic IDs or networks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_HISTORY = 20
"""Items of history an example has at most."""

MIN_INTERACTIONS = 3
"""A user with fewer has no test and no validation example; everything the user did is for training."""

PADDING = -1
"""Fills the end of a history in `Examples.matrix`; never an item row."""


@dataclass(frozen=True)
class Examples:
    """What came before, and what came next: n examples.

    Attributes
    ----------
    users : int64 [n], number of the user
    targets : int32 [n], item row that came next
    starts, stops : int64 [n]; the history is `history_items[start : stop]`, oldest first, never empty
    """

    users: NDArray[np.int64]
    targets: NDArray[np.int32]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.targets)

    def matrix(self, history_items: NDArray[np.int32], length: int = MAX_HISTORY) -> NDArray[np.int32]:
        """Histories side by side: int32 [n, length], oldest first, `PADDING` after the newest.

        Where a history is longer than `length`, its newest items are kept.
        """
        starts = np.maximum(self.starts, self.stops - length)
        at = starts[:, None] + np.arange(length)
        inside = at < self.stops[:, None]
        rows = np.full(at.shape, PADDING, dtype=np.int32)
        rows[inside] = history_items[at[inside]]
        return rows


@dataclass(frozen=True)
class Split:
    """The three parts of one domain.

    Attributes
    ----------
    training : every position from the second of a user's training part is a target once
    validation : the last but one as target
    test : the last as target, the validation item in its history
    short_users : users with fewer than `MIN_INTERACTIONS`, who are in training only
    """

    training: Examples
    validation: Examples
    test: Examples
    short_users: int


def leave_one_out(
    history_items: NDArray[np.int32], history_starts: NDArray[np.int64], max_history: int = MAX_HISTORY
) -> Split:
    """Split the histories of one domain.

    Parameters
    ----------
    history_items : int32 [interactions], item rows, users back to back, chronological within a user
    history_starts : int64 [users + 1]
    max_history : items of history an example has at most
    """
    lengths = np.diff(history_starts)
    enough = lengths >= MIN_INTERACTIONS
    owners = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
    training_stops = history_starts[1:] - np.where(enough, 2, 0)
    position = np.arange(len(history_items), dtype=np.int64)
    is_training = (position > history_starts[owners]) & (position < training_stops[owners])

    def examples(targets_at: NDArray[np.int64], users: NDArray[np.int64]) -> Examples:
        starts = np.maximum(history_starts[users], targets_at - max_history)
        return Examples(users, history_items[targets_at], starts, targets_at)

    evaluated = np.flatnonzero(enough)
    return Split(
        training=examples(position[is_training], owners[is_training]),
        validation=examples(history_starts[evaluated + 1] - 2, evaluated),
        test=examples(history_starts[evaluated + 1] - 1, evaluated),
        short_users=int((~enough).sum()),
    )
