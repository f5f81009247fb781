"""Tasks of networks over sequences, in training and inference. Knows nothing of networks.

`NextItem` (SASRec, GRU4Rec): predict the next item at every position. `Cloze` (BERT4Rec): predict masked items.

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
    """A training batch.

    Attributes
    ----------
    inputs : int64 [B, S], inputs of the network
    asked : bool [B, S], the positions that enter the loss
    answers : int64 [asked positions], the target items, row by row
    """

    inputs: NDArray[np.int64]
    asked: NDArray[np.bool_]
    answers: NDArray[np.int64]


@dataclass(frozen=True)
class Query:
    """Histories to predict the next item of: `inputs` int64 [B, S], and positions of the answers, `at` int64 [B]."""

    inputs: NDArray[np.int64]
    at: NDArray[np.int64]


class Task(Protocol):
    """Turns windows into training batches, and histories into queries."""

    def question(self, rows: NDArray[np.int32], random: np.random.Generator) -> Question:
        """Windows int32 [B, S + 1], padded at the end."""

    def query(self, histories: NDArray[np.int32]) -> Query:
        """Histories int32 [B, S], padded at the end, none empty."""


class NextItem:
    """Predict the next item at every position but the last."""

    def question(self, rows: NDArray[np.int32], random: np.random.Generator) -> Question:
        """Deterministic; `random` is ignored."""
        del random
        following = rows[:, 1:].astype(np.int64)
        asked = following != PADDING
        return Question(rows[:, :-1].astype(np.int64), asked, following[asked])

    def query(self, histories: NDArray[np.int32]) -> Query:
        """The answer is at the position of the newest item."""
        return Query(histories.astype(np.int64), (histories != PADDING).sum(axis=1) - 1)


@dataclass(frozen=True)
class Cloze:
    """Predict masked items.

    Attributes
    ----------
    mask_share : share of the items that is masked; at least one per row
    last_share : share of the rows in which only the last item is masked
    """

    mask_share: float
    last_share: float

    def question(self, rows: NDArray[np.int32], random: np.random.Generator) -> Question:
        """The masked items are drawn anew at each call."""
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
        """The answer is at a masked item appended after the newest."""
        lengths = (histories != PADDING).sum(axis=1)
        inputs = np.pad(histories.astype(np.int64), ((0, 0), (0, 1)), constant_values=PADDING)
        inputs[np.arange(len(inputs)), lengths] = MASKED
        return Query(inputs, lengths)
