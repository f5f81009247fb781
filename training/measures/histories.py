"""Histories of evaluated users, as items and as batches of tokens. Knows nothing of recommenders or figures.

Symbols: B batch, L levels, N experts an item.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from service.engine.history_tokens import HistoryTokens, history_tokens
from service.semantic_ids import IntArray, TokenLayout
from training.data.dataset import DomainData
from training.data.split import Examples


def histories_of(domain: DomainData, examples: Examples, rows: Iterable[int]) -> list[IntArray]:
    """Items of the histories of the given examples, each int32 [items]."""
    return [domain.history_items[examples.starts[row] : examples.stops[row]] for row in rows]


def batched_histories(
    layout: TokenLayout, domain: DomainData, read: IntArray, examples: Examples, *, max_history: int, size: int
) -> Iterator[tuple[NDArray[np.int64], HistoryTokens]]:
    """Tokens of the examples' histories, batched by length, the longest first.

    Parameters
    ----------
    read : int32 [items, L + N + 1], the items' IDs as written in histories
    size : histories per batch

    Yields
    ------
    the numbers of the batch's examples, int64 [B], and their histories
    """
    domain_token = layout.domain_token(domain.name)
    by_length = np.argsort(examples.starts - examples.stops, kind="stable")
    for at in range(0, len(by_length), size):
        batch = by_length[at : at + size]
        history_of = histories_of(domain, examples, batch)
        row_splits = np.cumsum([0, *(len(history) for history in history_of)], dtype=np.int64)
        lead = np.full(len(batch), domain_token, dtype=np.int64) if layout.domains else None
        yield batch, history_tokens(layout, read[np.concatenate(history_of)], row_splits, max_history, lead)
