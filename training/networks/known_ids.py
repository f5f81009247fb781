"""Rows of IDs that training knew, and of what such IDs begin with, found by a hash of their tokens.

A hash is the sum of one number a token, so it grows as an ID is written, and all that is done with it is arithmetic
that can be done inside a graph. A suffix of 0 adds nothing, since a history does not write it.

*Whole IDs* are found exactly. Every known ID has a row of its own: its bucket, which its hash decides, says how far to
move on from its hash, so that no two meet in a slot ("hash, displace and compress", Belazzougui et al. 2009). The slot
says the row, and the row's key, which is the hash itself, whether the ID is known at all: row 0 is that of all others.

*Beginnings* are found by their hash alone, in slots that are many times as many as they, because a search asks for
thousands of them a step and takes what it finds for an estimate: some share a row, and some unknown ones have one. The
others fall into an empty slot, and have the row of their length.

Knows nothing of networks.

Symbols: I items, V vocabulary; depth = L + N + 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from service.semantic_ids import SPECIAL_TOKENS, TokenLayout

PRIME, ROOT = 2**61 - 1, 37
"""A prime and a root of it: the root's powers are all numbers below the prime, in an order that looks like chance."""
SPARE_BITS = 14
"""Left out of each power, so that sums of 64 tokens are below 2^53: ONNX Runtime adds up integers as doubles."""
ITEM_SLOTS_A_ROW = 4
"""At least so many, and less than twice as many: with fewer it takes long to find a move for each bucket."""
BEGINNING_SLOTS_A_ROW = 32
"""Likewise: one in so many unknown beginnings, or fewer, is taken for another."""
LEAST_BEGINNING_SLOTS = 1 << 16
"""Of small catalogues, which can afford more."""


@dataclass(frozen=True)
class KnownSizes:
    """Sizes of the tables: rows besides those of the unknown, slots, and buckets."""

    items: int
    item_slots: int
    item_buckets: int
    beginnings: int
    beginning_slots: int


@dataclass(frozen=True)
class KnownItems:
    """Where whole IDs are found.

    Attributes
    ----------
    slots : int32 [slots], the row of what falls there, 0 for nothing
    moves : int64 [buckets], how far the hashes of a bucket are moved
    keys : int64 [I + 1], the hash of each row's ID; -1 where a row has none
    """

    slots: Tensor
    moves: Tensor
    keys: Tensor

    def rows(self, hashes: Tensor) -> Tensor:
        """int64 of the same shape, 0 for what is not known."""
        moved = hashes + self.moves[hashes % len(self.moves)]
        found = self.slots[moved % len(self.slots)].long()
        return torch.where(self.keys[found] == hashes, found, 0)


@dataclass(frozen=True)
class KnownIds:
    """Tables of whole IDs and of beginnings: `beginning_slots` is int32 [slots], 0 for nothing."""

    items: KnownItems
    beginning_slots: Tensor
    sizes: KnownSizes

    @classmethod
    def of(cls, layout: TokenLayout, items: Tensor) -> KnownIds:
        """Rows for the IDs int64 [I, depth], in tokens, and for what they begin with; equal IDs have one row."""
        hashes = hash_parts(layout).to(items.device)[items].cumsum(dim=1)
        beginnings = torch.unique(hashes[:, :-1])
        by_item, by_beginning = _placed(hashes[:, -1]), _beginning_slots(beginnings, layout.depth - 1)
        sizes = KnownSizes(len(items), len(by_item.slots), len(by_item.moves), len(beginnings), len(by_beginning))
        return cls(by_item, by_beginning, sizes)


def _placed(hashes: Tensor) -> KnownItems:
    """Row i + 1 for hash i, or for the last one that equals it."""
    device, keys = hashes.device, torch.cat([hashes.new_full((1,), -1), hashes])
    distinct, which = torch.unique(hashes, return_inverse=True)
    rows = torch.zeros_like(distinct).scatter_reduce(0, which, torch.arange(1, len(keys), device=device), "amax")
    slots = torch.zeros(1 << (ITEM_SLOTS_A_ROW * len(hashes)).bit_length(), dtype=torch.int32, device=device)
    # Two that share bucket and slot would stay together however far they are moved.
    buckets = len(hashes) | 1
    while len(torch.unique(distinct % (buckets * len(slots)))) < len(distinct):
        buckets += 2
    moves, bucket = torch.zeros(buckets, dtype=torch.int64, device=device), distinct % buckets
    drawn, left = torch.Generator().manual_seed(0), torch.arange(len(distinct), device=device)
    while len(left):
        # Every bucket that has no place yet draws a move, and keeps it if all of its own fall into slots that nobody
        # has and nobody else has drawn.
        move = torch.randint(len(slots), (buckets,), generator=drawn).to(device)
        place = (distinct[left] + move[bucket[left]]) % len(slots)
        fails = (slots[place] > 0) | (torch.bincount(place, minlength=len(slots))[place] > 1)
        failed = torch.zeros(buckets, dtype=torch.bool, device=device)
        failed[bucket[left[fails]]] = True
        stays = ~failed[bucket[left]]
        slots[place[stays]] = rows[left[stays]].int()
        moves[bucket[left[stays]]] = move[bucket[left[stays]]]
        left = left[~stays]
    return KnownItems(slots, moves, keys)


def _beginning_slots(hashes: Tensor, first: int) -> Tensor:
    """Row i + first for hash i."""
    count = max(LEAST_BEGINNING_SLOTS, 1 << (BEGINNING_SLOTS_A_ROW * len(hashes) - 1).bit_length())
    slots = torch.zeros(count, dtype=torch.int32, device=hashes.device)
    slots[hashes % len(slots)] = torch.arange(first, first + len(hashes), dtype=torch.int32, device=hashes.device)
    return slots


def beginning_rows(slots: Tensor, hashes: Tensor, unknown: int = 0) -> Tensor:
    """Rows of sums of hash parts, int64 of the same shape; for what has none `unknown`, which comes before all rows."""
    return slots[hashes % len(slots)].long().clamp(min=unknown)


def no_suffix_token(layout: TokenLayout) -> int:
    """The token of suffix 0."""
    return int(layout.position_offsets[-1])


def hash_parts(layout: TokenLayout) -> Tensor:
    """What each token adds to a hash: int64 [V], 0 for what is no part of an ID, and for suffix 0."""
    parts = [pow(ROOT, token + 1, PRIME) >> SPARE_BITS for token in range(layout.vocabulary)]
    silent = [*range(SPECIAL_TOKENS), no_suffix_token(layout), *map(layout.domain_token, layout.domains)]
    for token in silent:
        parts[token] = 0
    return torch.tensor(parts)
