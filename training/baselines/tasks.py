"""What a network over sequences is asked, while it learns and afterwards. Knows nothing of networks.

`NextItem` (SASRec, GRU4Rec): at every position, the item that comes next. `Cloze` (BERT4Rec): items that were masked.

Symbols: B rows, S sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from training.data.split import PADDING
from training.networks.item_embedding import MASKED


@dataclass(frozen=True)
class Question:
    """A batch to learn from.

    Attributes
    ----------
    inputs : int64 [B, S], what the network reads
    asked : bool [B, S], the positions whose answer counts
    answers : int64 [asked positions], the right items, row by row
    """

    inputs: NDArray[np.int64]
    asked: NDArray[np.bool_]
    answers: NDArray[np.int64]


@dataclass(frozen=True)
class Query:
    """Histories whose next item is wanted: `inputs` int64 [B, S] and where the answer stands, `at` int64 [B]."""

    inputs: NDArray[np.int64]
    at: NDArray[np.int64]


class Task(Protocol):
    """How a window becomes a question, and a history a query."""

    def question(self, rows: NDArray[np.int32], random: np.random.Generator) -> Question:
        """Windows int32 [B, S + 1], padded at the end."""

    def query(self, histories: NDArray[np.int32]) -> Query:
        """Histories int32 [B, S], padded at the end, none empty."""


class NextItem:
    """Every position but the last is asked for the item after it."""

    def question(self, rows: NDArray[np.int32], random: np.random.Generator) -> Question:
        """Nothing is drawn at random."""
        del random
        following = rows[:, 1:].astype(np.int64)
        asked = following != PADDING
        return Question(rows[:, :-1].astype(np.int64), asked, following[asked])

    def query(self, histories: NDArray[np.int32]) -> Query:
        """The position of the newest item is asked."""
        return Query(histories.astype(np.int64), (histories != PADDING).sum(axis=1) - 1)


@dataclass(frozen=True)
class Cloze:
    """Masked items are asked for.

    Attributes
    ----------
    mask_share : share of the items that is masked; at least one a row
    last_share : share of the rows in which the last item alone is masked
    """

    mask_share: float
    last_share: float

    def question(self, rows: NDArray[np.int32], random: np.random.Generator) -> Question:
        """What is masked is drawn anew each time."""
        present = rows != PADDING
        lengths = present.sum(axis=1)
        asked = present & (random.random(rows.shape) < self.mask_share)
        only_last = random.random(len(rows)) < self.last_share
        asked[only_last] = False
        always = np.where(only_last, lengths - 1, random.integers(0, lengths))
        empty = ~asked.any(axis=1)
        asked[empty, always[empty]] = True
        items = rows.astype(np.int64)
        return Question(np.where(asked, MASKED, items), asked, items[asked])

    def query(self, histories: NDArray[np.int32]) -> Query:
        """A masked item after the newest is asked."""
        lengths = (histories != PADDING).sum(axis=1)
        inputs = np.pad(histories.astype(np.int64), ((0, 0), (0, 1)), constant_values=PADDING)
        inputs[np.arange(len(inputs)), lengths] = MASKED
        return Query(inputs, lengths)
