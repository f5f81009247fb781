"""Rows of tables that hold a vector for every token of an item *as its expert means it*.

Code 12 of level 0 means one thing under one expert and another under the next, while the vocabulary has one token for
both. A sequence model can tell from the expert's token; a sum of vectors cannot, so a table that is summed has rows for
each expert: K x L x T codes, and one row for every other token. Without experts a row is a token.

Knows nothing of networks.

Symbols: S sequence, L levels, T codes a level, K experts; depth = L + N + 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from service.semantic_ids import SPECIAL_TOKENS, TokenLayout


def table_rows(layout: TokenLayout) -> int:
    """Number of rows of a table."""
    return layout.vocabulary + other_rows_at(layout)


def other_rows_at(layout: TokenLayout) -> int:
    """What is added to a token that is no code: the rows of all experts but one lie before it."""
    return (layout.experts - 1) * layout.levels * layout.codes if layout.experts_per_item else 0


def rows_of_items(layout: TokenLayout, items: Tensor) -> Tensor:
    """Tokens of whole items, int64 [..., depth] -> rows of the same shape."""
    return _rows(layout, items, items[..., layout.levels : layout.levels + 1])


def rows_of_sequences(layout: TokenLayout, tokens: Tensor) -> Tensor:
    """Tokens of histories, int64 [B, S] -> rows of the same shape; an item's expert follows its L codes."""
    level = (tokens - SPECIAL_TOKENS).clamp(min=0) // layout.codes
    places = torch.arange(tokens.shape[1], device=tokens.device) + layout.levels - level
    return _rows(layout, tokens, tokens.gather(1, places.clamp(0, tokens.shape[1] - 1)))


def _rows(layout: TokenLayout, tokens: Tensor, expert_tokens: Tensor) -> Tensor:
    if not layout.experts_per_item:
        return tokens
    codes = layout.levels * layout.codes
    expert = (expert_tokens - SPECIAL_TOKENS - codes).clamp(0, layout.experts - 1)
    is_code = (tokens >= SPECIAL_TOKENS) & (tokens < SPECIAL_TOKENS + codes)
    return torch.where(is_code, tokens + expert * codes, tokens + other_rows_at(layout))


def starts_item(layout: TokenLayout, tokens: Tensor) -> Tensor:
    """Whether a token is the first of an item, or leads a history: bool of the same shape."""
    is_first = (tokens >= SPECIAL_TOKENS) & (tokens < SPECIAL_TOKENS + layout.codes)
    return is_first | (tokens >= layout.vocabulary - len(layout.domains))
