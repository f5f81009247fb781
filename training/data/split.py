"""Leave-one-out by time: the last item of a user is for test, the last but one for validation, the rest for training.

A split is a matter of position, so nothing is copied: an example is a target and a stretch of the history before it.
Knows nothing of files, semantic IDs or networks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import ConfigError

MAX_HISTORY = 20
"""Items of history an example has at most."""

MIN_INTERACTIONS = 3
"""A user with fewer has no test and no validation example; everything the user did is for training."""

PADDING = -1
"""Fills the end of a history where several lie side by side; never an item row."""


def padded(
    history_items: NDArray[np.int32], starts: NDArray[np.int64], stops: NDArray[np.int64], length: int
) -> NDArray[np.int32]:
    """Stretches of at most `length` items side by side: int32 [n, length], `PADDING` after the newest."""
    at = starts[:, None] + np.arange(length)
    inside = at < stops[:, None]
    rows = np.full(at.shape, PADDING, dtype=np.int32)
    rows[inside] = history_items[at[inside]]
    return rows


def positions(starts: NDArray[np.int64], stops: NDArray[np.int64]) -> NDArray[np.int64]:
    """Every place of every stretch, one stretch after the other: int64 [n] twice -> int64 [places]."""
    lengths = stops - starts
    before = np.cumsum(lengths) - lengths
    found: NDArray[np.int64] = np.arange(lengths.sum(), dtype=np.int64) + np.repeat(starts - before, lengths)
    return found


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
        return padded(history_items, np.maximum(self.starts, self.stops - length), self.stops, length)


@dataclass(frozen=True)
class Interactions:
    """Who had what: one entry an interaction, users back to back, in the order of time within a user.

    Attributes
    ----------
    users, items : int64 [interactions], number of the user and item row
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]


@dataclass(frozen=True)
class Stretches:
    """Stretches of histories, without a target: n of them, `history_items[start : stop]`.

    Attributes
    ----------
    users, starts, stops : int64 [n]
    """

    users: NDArray[np.int64]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]

    def interactions(self, history_items: NDArray[np.int32]) -> Interactions:
        """All that lies in the stretches, one stretch after the other."""
        owners = np.repeat(self.users, self.stops - self.starts)
        return Interactions(owners, history_items[positions(self.starts, self.stops)].astype(np.int64))


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
    """Refuse what nothing can be learned from, or what no epoch can be chosen on.

    Raises
    ------
    ConfigError : there are no examples of training, or of validation
    """
    if not training:
        raise ConfigError(f"{where}: no user has two interactions to learn from, the last two items aside")
    if not validation:
        raise ConfigError(
            f"{where}: no user has the {MIN_INTERACTIONS} interactions that a test and a validation item take, so "
            "nothing says which weights are the best"
        )


def training_stretches(history_starts: NDArray[np.int64]) -> Stretches:
    """The training part of every user, whole: int64 [users + 1] -> as many stretches as users."""
    lengths = np.diff(history_starts)
    stops = history_starts[1:] - np.where(lengths >= MIN_INTERACTIONS, 2, 0)
    return Stretches(np.arange(len(lengths), dtype=np.int64), history_starts[:-1], stops)


def windows(stretches: Stretches, max_history: int = MAX_HISTORY) -> Stretches:
    """Cut stretches so that every item but a stretch's first follows another in exactly one window.

    A window holds at most `max_history + 1` items, its first being the last of the window before; it is the oldest
    window of a user that is short. A stretch of one item has none.
    """
    counts = -(-(stretches.stops - stretches.starts - 1) // max_history)
    owner = np.repeat(np.arange(len(counts)), counts)
    back = positions(np.zeros_like(counts), counts)
    stops = stretches.stops[owner] - back * max_history
    starts = np.maximum(stretches.starts[owner], stops - max_history - 1)
    return Stretches(stretches.users[owner], starts, stops)
