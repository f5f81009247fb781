"""Hash tables from IDs that training knew, and from their prefixes, to rows of tables of vectors.

The hash of tokens is the sum of one number per token, so a search can extend it token by token, and all lookups are
arithmetic that works inside a graph. A suffix of 0 adds nothing, since histories do not contain it.

*Whole IDs* are looked up exactly, by a perfect hash with a check. Each bucket of hashes has a displacement, chosen so
that no two IDs fall into the same slot ("hash, displace and compress", Belazzougui et al. 2009). The slot holds the
row; the row's key, the hash itself, tells whether the ID is known at all. Unknown IDs have row 0.

*Prefixes* are looked up by their hash modulo the number of slots, without a check: a search looks up thousands of them
per step, and only for an estimate. A few share a row, and a few unknown ones are taken for known ones; all others have
the row of their length.

Knows nothing of networks.

Symbols: I items, V vocabulary; depth = L + N + 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from service.semantic_ids import SPECIAL_TOKENS, TokenLayout

PRIME, ROOT = 2**61 - 1, 37
"""A prime and a primitive root: the root's powers run through all numbers below the prime in a scrambled order."""
SPARE_BITS = 14
"""Low bits dropped from each power: sums of 64 tokens stay below 2^53, since ONNX Runtime sums integers as doubles."""
ITEM_SLOTS_A_ROW = 4
"""At least so many, less than twice as many; with fewer, finding a displacement for each bucket takes long."""
PREFIX_SLOTS_A_ROW = 32
"""Likewise; at most one in so many unknown prefixes is taken for a known one."""
LEAST_PREFIX_SLOTS = 1 << 16
"""Small catalogues can afford more."""


@dataclass(frozen=True)
class KnownSizes:
    """Sizes of the tables: rows (without those for unknown IDs and prefixes), slots and buckets."""

    items: int
    item_slots: int
    item_buckets: int
    prefixes: int
    prefix_slots: int


@dataclass(frozen=True)
class KnownItems:
    """The table of whole IDs.

    Attributes
    ----------
    slots : int32 [slots], a row, or 0
    moves : int64 [buckets], the displacement of each bucket
    keys : int64 [I + 1], the hash of each row's ID; -1 for row 0
    """

    slots: Tensor
    moves: Tensor
    keys: Tensor

    def rows(self, hashes: Tensor) -> Tensor:
        """Rows of hashes: int64 of the same shape, 0 for unknown IDs."""
        moved = hashes + self.moves[hashes % len(self.moves)]
        found = self.slots[moved % len(self.slots)].long()
        return torch.where(self.keys[found] == hashes, found, 0)


@dataclass(frozen=True)
class KnownIds:
    """The tables of whole IDs and of prefixes; `prefix_slots` is int32 [slots], a row, or 0."""

    items: KnownItems
    prefix_slots: Tensor
    sizes: KnownSizes

    @classmethod
    def of(cls, layout: TokenLayout, items: Tensor) -> KnownIds:
        """Tables for the IDs int64 [I, depth], in tokens; equal IDs have one row."""
        hashes = hash_parts(layout).to(items.device)[items].cumsum(dim=1)
        prefixes = torch.unique(hashes[:, :-1])
        by_item, by_prefix = _placed(hashes[:, -1]), _prefix_slots(prefixes, layout.depth - 1)
        sizes = KnownSizes(len(items), len(by_item.slots), len(by_item.moves), len(prefixes), len(by_prefix))
        return cls(by_item, by_prefix, sizes)


def _placed(hashes: Tensor) -> KnownItems:
    """Row i + 1 for hash i, or for the last one that equals it."""
    device, keys = hashes.device, torch.cat([hashes.new_full((1,), -1), hashes])
    distinct, which = torch.unique(hashes, return_inverse=True)
    rows = torch.zeros_like(distinct).scatter_reduce(0, which, torch.arange(1, len(keys), device=device), "amax")
    slots = torch.zeros(1 << (ITEM_SLOTS_A_ROW * len(hashes)).bit_length(), dtype=torch.int32, device=device)
    # Two hashes with the same bucket and slot would collide under any displacement.
    buckets = len(hashes) | 1
    while len(torch.unique(distinct % (buckets * len(slots)))) < len(distinct):
        buckets += 2
    moves, bucket = torch.zeros(buckets, dtype=torch.int64, device=device), distinct % buckets
    drawn, left = torch.Generator().manual_seed(0), torch.arange(len(distinct), device=device)
    while len(left):
        # Every bucket without a place draws a displacement, and keeps it if all its hashes fall into slots that are
        # free and that no other hash has drawn.
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


def _prefix_slots(hashes: Tensor, first: int) -> Tensor:
    """Row i + first for hash i."""
    count = max(LEAST_PREFIX_SLOTS, 1 << (PREFIX_SLOTS_A_ROW * len(hashes) - 1).bit_length())
    slots = torch.zeros(count, dtype=torch.int32, device=hashes.device)
    slots[hashes % len(slots)] = torch.arange(first, first + len(hashes), dtype=torch.int32, device=hashes.device)
    return slots


def prefix_rows(slots: Tensor, hashes: Tensor, unknown: int = 0) -> Tensor:
    """Rows of prefixes by their hashes, int64 of the same shape; `unknown`, which precedes all rows, for the others."""
    return slots[hashes % len(slots)].long().clamp(min=unknown)


def no_suffix_token(layout: TokenLayout) -> int:
    """The token of suffix 0."""
    return int(layout.position_offsets[-1])


def hash_parts(layout: TokenLayout) -> Tensor:
    """What each token adds to a hash: int64 [V], 0 for tokens that are no part of an ID and for suffix 0."""
    parts = [pow(ROOT, token + 1, PRIME) >> SPARE_BITS for token in range(layout.vocabulary)]
    silent = [*range(SPECIAL_TOKENS), no_suffix_token(layout), *map(layout.domain_token, layout.domains)]
    for token in silent:
        parts[token] = 0
    return torch.tensor(parts)
