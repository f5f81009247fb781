"""Rows of IDs that training knew, and of what such IDs begin with, found by a hash of their tokens.

A string of tokens falls into the slot that the sum of its tokens' hash parts says, and a slot holds the number of a
row. Slots are many times as many as rows, so that what training did not know falls into an empty one almost always: row
0, which is nothing; of beginnings, the row of their length, for what training did not know is not nothing there. Two
known strings rarely share a slot; then they share a row. A suffix of 0 has no part, since a history does not write it.
All of this is arithmetic on tokens, so it can be done inside a graph.

Knows nothing of networks.

Symbols: I items, V vocabulary; depth = L + N + 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from service.semantic_ids import SPECIAL_TOKENS, TokenLayout

PRIME, ROOT = 2**31 - 1, 7
"""A prime and a root of it: the root's powers are all numbers below the prime, in an order that looks like chance."""
SLOTS_A_ROW = 32
"""At least so many, and less than twice as many."""
LEAST_SLOTS = 1 << 16
"""Of small catalogues, which can afford more."""


@dataclass(frozen=True)
class KnownSizes:
    """Sizes of the tables: rows besides those of the unknown, and slots."""

    items: int
    item_slots: int
    beginnings: int
    beginning_slots: int


@dataclass(frozen=True)
class KnownIds:
    """int32 [slots] each: the row of what falls there, 0 for nothing."""

    item_slots: Tensor
    beginning_slots: Tensor
    sizes: KnownSizes

    @classmethod
    def of(cls, layout: TokenLayout, items: Tensor) -> KnownIds:
        """Rows for the IDs int64 [I, depth], in tokens, and for what they begin with."""
        hashes = hash_parts(layout).to(items.device)[items].cumsum(dim=1)
        beginnings = torch.unique(hashes[:, :-1])
        by_item, by_beginning = _slots(hashes[:, -1], 1), _slots(beginnings, layout.depth - 1)
        sizes = KnownSizes(len(items), len(by_item), len(beginnings), len(by_beginning))
        return cls(by_item, by_beginning, sizes)


def _slots(hashes: Tensor, first: int) -> Tensor:
    """Row i + first for hash i."""
    count = max(LEAST_SLOTS, 1 << (SLOTS_A_ROW * len(hashes) - 1).bit_length())
    slots = torch.zeros(count, dtype=torch.int32, device=hashes.device)
    slots[hashes % len(slots)] = torch.arange(first, first + len(hashes), dtype=torch.int32, device=hashes.device)
    return slots


def rows_in(slots: Tensor, hashes: Tensor, unknown: int = 0) -> Tensor:
    """Rows of sums of hash parts, int64 of the same shape; for what has none `unknown`, which comes before all rows."""
    return slots[hashes % len(slots)].long().clamp(min=unknown)


def no_suffix_token(layout: TokenLayout) -> int:
    """The token of suffix 0."""
    return int(layout.position_offsets[-1])


def hash_parts(layout: TokenLayout) -> Tensor:
    """What each token adds to a hash: int64 [V], below 2^31; 0 for what is no part of an ID, and for suffix 0."""
    parts = [pow(ROOT, token + 1, PRIME) for token in range(layout.vocabulary)]
    silent = [*range(SPECIAL_TOKENS), no_suffix_token(layout), *map(layout.domain_token, layout.domains)]
    for token in silent:
        parts[token] = 0
    return torch.tensor(parts)
