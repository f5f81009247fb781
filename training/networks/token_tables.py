"""Rows of tables that hold a vector for every token of an item *as its expert means it*.

Code 12 of level 0 means one thing under one expert and another under the next, while the vocabulary has one token for
both. A sequence model can tell from the expert's token; a sum of vectors cannot, so a table that is summed has rows for
each expert: K x L x T codes, and one row for every other token. Without experts a row is a token.

Knows nothing of networks.

Symbols: S sequence, L levels, T codes a level, K experts; depth = L + N + 1.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from service.semantic_ids import SPECIAL_TOKENS, TokenLayout


class Numbers(Protocol):
    """Integers with the arithmetic of this module, such as torch's, or those of a graph that is being written."""

    def __add__(self, other: Any) -> Any: ...

    def __sub__(self, other: Any) -> Any: ...

    def __mul__(self, other: Any) -> Any: ...


Tokens = TypeVar("Tokens", bound=Numbers)
"""Token numbers in torch or in a graph."""


def table_rows(layout: TokenLayout) -> int:
    """Number of rows of a table."""
    return layout.vocabulary + other_rows_at(layout)


def other_rows_at(layout: TokenLayout) -> int:
    """Offset of the rows of tokens that are no codes: the rows of all experts but the first precede them."""
    return (layout.experts - 1) * layout.levels * layout.codes if layout.experts_per_item else 0


def rows_of_items(layout: TokenLayout, items: Tensor) -> Tensor:
    """Tokens of whole items, int64 [..., depth] -> rows of the same shape."""
    at = 0 if layout.expert_first else layout.levels
    return _rows(layout, items, items[..., at : at + 1])


def rows_of_sequences(layout: TokenLayout, tokens: Tensor) -> Tensor:
    """Tokens of histories, int64 [B, S] -> rows of the same shape; an item's expert follows its L codes, or leads."""
    level = (tokens - SPECIAL_TOKENS).clamp(min=0) // layout.codes
    places = torch.arange(tokens.shape[1], device=tokens.device) + expert_place(layout) - level
    return _rows(layout, tokens, tokens.gather(1, places.clamp(0, tokens.shape[1] - 1)))


def expert_place(layout: TokenLayout) -> int:
    """Where an item's first expert stands, counted from its first code."""
    return -1 if layout.expert_first else layout.levels


def _rows(layout: TokenLayout, tokens: Tensor, expert_tokens: Tensor) -> Tensor:
    if not layout.experts_per_item:
        return tokens
    expert = (expert_tokens - experts_at(layout)).clamp(0, layout.experts - 1)
    is_code = (tokens >= SPECIAL_TOKENS) & (tokens < experts_at(layout))
    return torch.where(is_code, tokens + expert * (layout.levels * layout.codes), tokens + other_rows_at(layout))


def starts_item(layout: TokenLayout, tokens: Tensor) -> Tensor:
    """Whether a token is the first of an item, or leads a history: bool of the same shape."""
    first, end = first_tokens(layout)
    return ((tokens >= first) & (tokens < end)) | (tokens >= layout.vocabulary - len(layout.domains))


def first_tokens(layout: TokenLayout) -> tuple[int, int]:
    """Range of the tokens with which an item may begin: first, and one past the last."""
    if layout.expert_first:
        return experts_at(layout), experts_at(layout) + layout.experts
    return SPECIAL_TOKENS, SPECIAL_TOKENS + layout.codes


def experts_at(layout: TokenLayout) -> int:
    """Token of the first expert, behind all codes."""
    return SPECIAL_TOKENS + layout.levels * layout.codes


def head_rows(layout: TokenLayout) -> int:
    """Rows of a table that is summed while an ID is written: one per expert and code only where experts come first."""
    return table_rows(layout) if layout.expert_first else layout.vocabulary


def head_rows_of_items(layout: TokenLayout, items: Tensor) -> Tensor:
    """Tokens of whole items, int64 [..., depth] -> rows of the same shape in such a table."""
    return rows_of_items(layout, items) if layout.expert_first else items


def head_rows_of_sequences(layout: TokenLayout, tokens: Tensor) -> Tensor:
    """The same of tokens of histories, int64 [B, S]."""
    return rows_of_sequences(layout, tokens) if layout.expert_first else tokens


def head_rows_of_written(layout: TokenLayout, position: int, tokens: Tokens, shift: Tokens) -> Tokens:
    """The same for tokens at one position of IDs that are being written: integers of any kind, [..., C].

    `shift`, of the same kind and [..., 1] or as `tokens`, is the result of `shift_after` for the tokens before.
    """
    if not layout.expert_first:
        return tokens
    codes = code_positions(layout)
    moved: Tokens = tokens + (shift if codes.start <= position < codes.stop else _constant(other_rows_at(layout)))
    return moved


def shift_after(layout: TokenLayout, position: int, tokens: Tokens, shift: Tokens) -> Tokens:
    """Offset of the rows of an ID's codes from those of expert 0, once `tokens` are written at a position."""
    if not layout.expert_first or position > 0:
        return shift
    first, rows_an_expert = _constant(experts_at(layout)), _constant(layout.levels * layout.codes)
    shifted: Tokens = (tokens - first) * rows_an_expert
    return shifted


def _constant(number: int) -> Any:
    """An int32, which combines with the int32 tokens of a graph and with torch's."""
    return np.int32(number)


def code_positions(layout: TokenLayout) -> slice:
    """Where the codes stand among an item's tokens."""
    first = 1 if layout.expert_first else 0
    return slice(first, first + layout.levels)
