"""Converts histories of items to token sequences, in the same way for training and serving.

An item is its L code tokens and N expert tokens, in the layout's order, and a suffix token only if the suffix is not 0.
Sequences are chronological, right-padded, and hold the latest `max_history` items. A domain token may come first.
Independent of networks and of the source of the items.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidInput
from service.semantic_ids import PAD_TOKEN, IntArray, TokenLayout


@dataclass(frozen=True)
class HistoryTokens:
    """Token sequences of a batch: `tokens` and `mask` int64 [B, S]; the mask is 1 for tokens to be read, else 0."""

    tokens: NDArray[np.int64]
    mask: NDArray[np.int64]


def item_token_counts(values: IntArray) -> NDArray[np.int64]:
    """Number of tokens of each item in a history: values int32 [M, L + N + 1] -> int64 [M]."""
    counts: NDArray[np.int64] = np.where(values[:, -1] != 0, values.shape[1], values.shape[1] - 1)
    return counts


def require_room(layout: TokenLayout, tokens: NDArray[np.int64], mask: NDArray[np.int64]) -> None:
    """Refuse sequences that begin more items than S tokens can hold when every item is complete.

    A graph laid out for a GPU has room for no more items and would not read the last of them. Whatever comes first in
    a sequence (a domain token, or the rest of a cut item) counts as one item.

    Parameters
    ----------
    tokens, mask : int64 [B, S], right-padded

    Raises
    ------
    InvalidInput : names the first such history
    """
    place = layout.levels if layout.expert_first else 0
    first, domains = int(layout.position_offsets[place]), layout.vocabulary - len(layout.domains)
    later = tokens[:, 1:]
    begins = (later >= first) & (later < first + layout.position_sizes[place])
    if layout.domains:
        begins |= later >= domains
    begins &= mask[:, 1:] > 0
    items, room = 1 + begins.sum(axis=1), (tokens.shape[1] - 1) // (layout.depth - 1) + 1
    if items.max(initial=0) > room:
        row = int((items > room).argmax())
        raise InvalidInput(
            f"history {row} begins {items[row]} items in {tokens.shape[1]} tokens, but a bundle laid out for a GPU "
            f"reads at most {room} there: every item must be whole, of {layout.depth - 1} tokens or more"
        )


def history_tokens(
    layout: TokenLayout,
    values: IntArray,
    row_splits: NDArray[np.int64],
    max_history: int,
    domain_tokens: NDArray[np.int64] | None = None,
) -> HistoryTokens:
    """Write B histories as token sequences.

    Parameters
    ----------
    values : int32 [M, L + N + 1], the semantic IDs of all items of all histories, oldest first
    row_splits : int64 [B + 1]; history b is `values[row_splits[b] : row_splits[b + 1]]`
    max_history : number of items kept of each history, the latest ones
    domain_tokens : int64 [B], the first token of each sequence, or None if the model reads no domain token

    An empty history without a domain token is one padding token with mask 1, since attention over zero
    positions is undefined.
    """
    splits = row_splits.tolist()
    if not splits or splits[0] != 0 or splits[-1] != len(values) or splits != sorted(splits):
        raise InvalidInput(f"row_splits must rise from 0 to the number of items, {len(values)}")
    if max_history < 1:
        raise InvalidInput(f"max_history is {max_history}, but must be at least 1")
    if len(splits) == 2:
        return _laid_out_alone(layout, values[-max_history:], domain_tokens)
    items = np.diff(row_splits)
    if items.max(initial=0) > max_history:
        values = values[np.arange(len(values)) >= np.repeat(row_splits[1:] - max_history, items)]
        items = np.minimum(items, max_history)

    written = np.ones(values.shape, dtype=np.bool_)
    written[:, -1] = values[:, -1] != 0
    # Number of tokens before each item, and from it the length of each history.
    before = np.concatenate([[0], written.sum(axis=1)]).cumsum()
    lengths = np.diff(before[np.concatenate([[0], items]).cumsum()])

    lead = 0 if domain_tokens is None else 1
    width = max(1, int(lengths.max(initial=0)) + lead)
    tokens = np.full((len(items), width), PAD_TOKEN, dtype=np.int64)
    # Boolean indexing fills row by row, which is the order of the tokens.
    tokens[:, lead:][np.arange(width - lead) < lengths[:, None]] = layout.tokens(values)[written]
    if domain_tokens is not None:
        tokens[:, 0] = domain_tokens
    mask = (np.arange(width) < np.maximum(1, lengths + lead)[:, None]).astype(np.int64)
    return HistoryTokens(tokens, mask)


def _laid_out_alone(layout: TokenLayout, values: IntArray, domain_tokens: NDArray[np.int64] | None) -> HistoryTokens:
    """`history_tokens` of one history, which needs no padding: lists are faster here than many small arrays."""
    rows = zip(layout.tokens(values).tolist(), values[:, -1].tolist(), strict=True)
    sequence: list[int] = [] if domain_tokens is None else domain_tokens.tolist()
    sequence += chain.from_iterable(row if suffix else row[:-1] for row, suffix in rows)
    tokens = np.array([sequence or [PAD_TOKEN]], dtype=np.int64)
    return HistoryTokens(tokens, np.ones(tokens.shape, dtype=np.int64))
