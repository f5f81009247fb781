"""Leave-one-out by time: the last item of a user is for test, the last but one for validation, the rest for training.

A split depends on positions alone and copies no histories: an example is a target and a range of the history before it.
Knows nothing of files, semantic IDs or networks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import ConfigError

MAX_HISTORY = 20
"""Largest number of history items of an example."""

MIN_INTERACTIONS = 3
"""A user with fewer has no test and no validation example; all interactions are used for training."""

PADDING = -1
"""Pads the end of histories in a matrix; never an item row."""


def padded(
    history_items: NDArray[np.int32], starts: NDArray[np.int64], stops: NDArray[np.int64], length: int
) -> NDArray[np.int32]:
    """Stretches of at most `length` items as a matrix: int32 [n, length], `PADDING` after the newest."""
    at = starts[:, None] + np.arange(length)
    inside = at < stops[:, None]
    rows = np.full(at.shape, PADDING, dtype=np.int32)
    rows[inside] = history_items[at[inside]]
    return rows


def positions(starts: NDArray[np.int64], stops: NDArray[np.int64]) -> NDArray[np.int64]:
    """All positions of all stretches, concatenated: starts and stops int64 [n] -> int64 [positions]."""
    lengths = stops - starts
    before = np.cumsum(lengths) - lengths
    found: NDArray[np.int64] = np.arange(lengths.sum(), dtype=np.int64) + np.repeat(starts - before, lengths)
    return found


@dataclass(frozen=True)
class Examples:
    """Examples of a history and the item that came next.

    Attributes
    ----------
    users : int64 [n], number of the user
    targets : int32 [n], row of the item that came next
    starts, stops : int64 [n]; the history is `history_items[start : stop]`, oldest first, never empty
    """

    users: NDArray[np.int64]
    targets: NDArray[np.int32]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.targets)

    def matrix(self, history_items: NDArray[np.int32], length: int = MAX_HISTORY) -> NDArray[np.int32]:
        """Histories as a matrix: int32 [n, length], oldest first, `PADDING` after the newest.

        Of a history longer than `length`, the newest items are kept.
        """
        return padded(history_items, np.maximum(self.starts, self.stops - length), self.stops, length)


@dataclass(frozen=True)
class Interactions:
    """Pairs of user and item: one entry per interaction, users back to back, chronological within a user.

    Attributes
    ----------
    users, items : int64 [interactions], number of the user and item row
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]


@dataclass(frozen=True)
class Stretches:
    """n contiguous parts of histories, without targets: `history_items[start : stop]`.

    Attributes
    ----------
    users, starts, stops : int64 [n]
    """

    users: NDArray[np.int64]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]

    def interactions(self, history_items: NDArray[np.int32]) -> Interactions:
        """All interactions of the stretches, concatenated."""
        owners = np.repeat(self.users, self.stops - self.starts)
        return Interactions(owners, history_items[positions(self.starts, self.stops)].astype(np.int64))


@dataclass(frozen=True)
class Split:
    """The three parts of one domain.

    Attributes
    ----------
    training : every item of a user's training part but the first is a target once
    validation : the last but one item is the target
    test : the last item is the target, and the validation item is in its history
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
    max_history : largest number of history items of an example
    """
    lengths = np.diff(history_starts)
    enough = lengths >= MIN_INTERACTIONS
    owners = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
    training = training_stretches(history_starts)
    position = np.arange(len(history_items), dtype=np.int64)
    is_training = (position > training.starts[owners]) & (position < training.stops[owners])

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


def require_examples(where: str, training: int, validation: int) -> None:
    """Refuse data without examples to learn from, or without examples to choose the best epoch on.

    Raises
    ------
    ConfigError : there are no examples of training, or none of validation
    """
    if not training:
        raise ConfigError(f"{where}: no user has two interactions to learn from, the last two items aside")
    if not validation:
        raise ConfigError(
            f"{where}: no user has the {MIN_INTERACTIONS} interactions that a test and a validation item take, so "
            "nothing says which weights are the best"
        )


def training_stretches(history_starts: NDArray[np.int64]) -> Stretches:
    """The whole training part of every user, one stretch each, from `history_starts` int64 [users + 1]."""
    lengths = np.diff(history_starts)
    stops = history_starts[1:] - np.where(lengths >= MIN_INTERACTIONS, 2, 0)
    return Stretches(np.arange(len(lengths), dtype=np.int64), history_starts[:-1], stops)


def windows(stretches: Stretches, max_history: int = MAX_HISTORY) -> Stretches:
    """Cut stretches into windows so that every item but a stretch's first has a predecessor in exactly one window.

    A window holds at most `max_history + 1` items and begins with the last item of the window before it. Only the
    oldest window of a stretch may be shorter. A stretch of one item has no window.
    """
    counts = -(-(stretches.stops - stretches.starts - 1) // max_history)
    owner = np.repeat(np.arange(len(counts)), counts)
    back = positions(np.zeros_like(counts), counts)
    stops = stretches.stops[owner] - back * max_history
    starts = np.maximum(stretches.starts[owner], stops - max_history - 1)
    return Stretches(stretches.users[owner], starts, stops)
