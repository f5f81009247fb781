"""Histories of items -> token sequences, the one way for training and serving.

An item is its L code tokens and N expert tokens, in the layout's order, and its suffix token only where that is not 0.
Sequences are chronological, right-padded, and hold the latest `max_history` items; a domain token may lead.
Knows nothing of networks or of where the items come from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidInput
from service.semantic_ids import PAD_TOKEN, IntArray, TokenLayout


@dataclass(frozen=True)
class HistoryTokens:
    """Token sequences of a batch: `tokens` and `mask` int64 [B, S], the mask 1 where a token is to be read."""

    tokens: NDArray[np.int64]
    mask: NDArray[np.int64]


def item_token_counts(values: IntArray) -> NDArray[np.int64]:
    """Tokens that each item takes in a history: values int32 [M, L + N + 1] -> int64 [M]."""
    counts: NDArray[np.int64] = np.where(values[:, -1] != 0, values.shape[1], values.shape[1] - 1)
    return counts


def history_tokens(
    layout: TokenLayout,
    values: IntArray,
    row_splits: NDArray[np.int64],
    max_history: int,
    domain_tokens: NDArray[np.int64] | None = None,
) -> HistoryTokens:
    """Lay the items of B histories out as token sequences.

    Parameters
    ----------
    values : int32 [M, L + N + 1], the semantic IDs of all items of all histories, oldest first
    row_splits : int64 [B + 1]; history b is `values[row_splits[b] : row_splits[b + 1]]`
    max_history : items kept of each history, the latest
    domain_tokens : int64 [B], the token that leads each sequence, or None where the model reads none

    An empty history without a domain token is one padding token that *is* read, since attention over nothing is
    undefined.
    """
    batch = len(row_splits) - 1
    if batch < 0 or row_splits[0] != 0 or row_splits[-1] != len(values) or (np.diff(row_splits) < 0).any():
        raise InvalidInput(f"row_splits must rise from 0 to the number of items, {len(values)}")
    if max_history < 1:
        raise InvalidInput(f"max_history is {max_history}, but must be at least 1")

    history_of = np.repeat(np.arange(batch), np.diff(row_splits))
    recent = np.arange(len(values)) >= row_splits[1:][history_of] - max_history
    values, history_of = values[recent], history_of[recent]

    written = np.ones(values.shape, dtype=np.bool_)
    written[:, -1] = values[:, -1] != 0
    flat = layout.tokens(values)[written]
    row = np.repeat(history_of, written.sum(axis=1))

    lead = 0 if domain_tokens is None else 1
    lengths = np.bincount(row, minlength=batch)
    starts = np.cumsum(lengths) - lengths
    column = np.arange(len(flat)) - starts[row] + lead

    width = max(1, int(lengths.max(initial=0)) + lead)
    tokens = np.full((batch, width), PAD_TOKEN, dtype=np.int64)
    tokens[row, column] = flat
    if domain_tokens is not None:
        tokens[:, 0] = domain_tokens
    mask = (np.arange(width) < np.maximum(1, lengths + lead)[:, None]).astype(np.int64)
    return HistoryTokens(tokens, mask)
