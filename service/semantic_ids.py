"""Semantic IDs: their parts, their token numbers, and their packing into eight bytes.

Symbols (those of the UniTok paper): B batch, L levels, T codes a level, K experts, N experts chosen an item.
A semantic ID is L codes, N experts (paper, Eq. 7) and one suffix that distinguishes items of one domain. N is 0 for a
tokenizer without a router, whose single set of codebooks needs no number. Its values are always in this order; its
tokens, as a recommender reads and writes them, may start with the expert.

Knows nothing of networks, stores or tries.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidInput

PAD_TOKEN = 0
"""Padding of histories, and the start token of the decoder."""
EOS_TOKEN = 1
"""Reserved; semantic IDs have a fixed depth, so no end token is needed."""
UNKNOWN_DOMAIN_TOKEN = 2
"""Domain token of all domains the recommender was not trained on, if it uses domain tokens."""
SPECIAL_TOKENS = 3

IntArray = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class SemanticId:
    """The tuple that names an item: L codes, N expert numbers and a suffix (0 unless needed)."""

    codes: tuple[int, ...]
    experts: tuple[int, ...]
    suffix: int


@dataclass(frozen=True)
class TokenLayout:
    """Maps the parts of a semantic ID to token numbers of the recommender's vocabulary.

    The vocabulary is, in this order: special tokens, L x T codes (level-major), K experts (none where N is 0), the
    suffixes, and the domain tokens.

    Attributes
    ----------
    levels, codes, experts, experts_per_item : L, T, K, N
    suffixes : how many items of one domain may share their codes and experts
    domains : domains with their own token, empty if the recommender uses none
    expert_first : whether the expert's token precedes those of the codes, so that each code is read with its expert
        known; only for tokenizers with one expert an item
    """

    levels: int
    codes: int
    experts: int
    experts_per_item: int
    suffixes: int
    domains: tuple[str, ...] = ()
    expert_first: bool = False

    def __post_init__(self) -> None:
        for name, least in {"levels": 1, "codes": 1, "experts": 1, "experts_per_item": 0, "suffixes": 1}.items():
            if getattr(self, name) < least:
                raise InvalidInput(f"token layout: {name} is {getattr(self, name)}, but must be at least {least}")
        if self.experts_per_item > self.experts:
            raise InvalidInput(f"token layout: experts_per_item {self.experts_per_item} exceeds experts {self.experts}")
        if self.expert_first and self.experts_per_item != 1:
            raise InvalidInput(
                f"token layout: expert_first goes with one expert an item, not with {self.experts_per_item}"
            )
        if sum(self._bits) > 64:
            raise InvalidInput(f"token layout: a semantic ID needs {sum(self._bits)} bits, but at most 64 fit")

    @cached_property
    def _bits(self) -> tuple[int, ...]:
        """Bits of each position, first position first."""
        return tuple(max(1, (size - 1).bit_length()) for size in self.position_sizes)

    @cached_property
    def _shifts(self) -> NDArray[np.uint64]:
        """uint64 [L + N + 1]: number of bits to the right of each position."""
        return np.array([sum(self._bits[position + 1 :]) for position in range(self.depth)], dtype=np.uint64)

    @cached_property
    def _masks(self) -> IntArray:
        """int32 [L + N + 1]: bit mask of each position, before it is shifted."""
        return np.array([(1 << bits) - 1 for bits in self._bits], dtype=np.int32)

    @cached_property
    def position_sizes(self) -> tuple[int, ...]:
        """Number of values of each of the L + N + 1 positions."""
        return (self.codes,) * self.levels + (self.experts,) * self.experts_per_item + (self.suffixes,)

    @cached_property
    def position_offsets(self) -> IntArray:
        """int32 [L + N + 1]: token number of value 0 at each position."""
        experts_at = SPECIAL_TOKENS + self.levels * self.codes
        offsets = [SPECIAL_TOKENS + level * self.codes for level in range(self.levels)]
        offsets += [experts_at] * self.experts_per_item
        offsets += [experts_at + self._expert_tokens]
        return np.asarray(offsets, dtype=np.int32)

    @cached_property
    def _written(self) -> IntArray:
        """int32 [L + N + 1]: for each token, in the order they are written, its position among the values."""
        order = np.arange(self.depth, dtype=np.int32)
        if self.expert_first:
            order[:-1] = np.roll(order[:-1], 1)
        return order

    @property
    def _expert_tokens(self) -> int:
        return self.experts if self.experts_per_item else 0

    @property
    def depth(self) -> int:
        """Positions of a semantic ID, the suffix included: L + N + 1."""
        return self.levels + self.experts_per_item + 1

    @property
    def vocabulary(self) -> int:
        """Number of tokens, special and domain tokens included."""
        return SPECIAL_TOKENS + self.levels * self.codes + self._expert_tokens + self.suffixes + len(self.domains)

    def domain_token(self, domain: str) -> int:
        """Token of a domain; `UNKNOWN_DOMAIN_TOKEN` for one without a token of its own."""
        if domain in self.domains:
            return self.vocabulary - len(self.domains) + self.domains.index(domain)
        return UNKNOWN_DOMAIN_TOKEN

    def join(self, codes: IntArray, experts: IntArray, suffix: IntArray) -> IntArray:
        """Concatenate the parts: [B, L], [B, N], [B] -> values int32 [B, L + N + 1]."""
        return np.concatenate([codes, experts, np.asarray(suffix)[:, None]], axis=1).astype(np.int32, copy=False)

    def tokens(self, values: IntArray) -> IntArray:
        """Values int32 [B, L + N + 1] -> token numbers of the same shape, in the order of tokens."""
        numbers = (values + self.position_offsets).astype(np.int32, copy=False)
        return numbers[..., self._written] if self.expert_first else numbers

    def values(self, tokens: IntArray) -> IntArray:
        """Inverse of `tokens`."""
        in_order = tokens[..., np.argsort(self._written)] if self.expert_first else tokens
        return (in_order - self.position_offsets).astype(np.int32, copy=False)

    def pack(self, values: IntArray) -> NDArray[np.uint64]:
        """Values int32 [B, L + N + 1] -> uint64 [B]; order is kept (packed IDs sort as their tuples do).

        Raises
        ------
        InvalidInput : a value is negative or not below its position's size
        """
        values = np.asarray(values)
        bad = (values < 0) | (values >= np.asarray(self.position_sizes))
        if bad.any():
            row, position = (int(i[0]) for i in np.nonzero(bad))
            size = self.position_sizes[position]
            raise InvalidInput(
                f"semantic ID {row}, position {position}: {values[row, position]} is not within 0..{size - 1}"
            )
        packed = np.zeros(len(values), dtype=np.uint64)
        for position, bits in enumerate(self._bits):
            packed = (packed << np.uint64(bits)) | values[:, position].astype(np.uint64)
        return packed

    def unpack(self, packed: NDArray[np.uint64]) -> IntArray:
        """Inverse of `pack`: uint64 [B] -> int32 [B, L + N + 1]."""
        packed = np.asarray(packed, dtype=np.uint64)
        values = np.empty((len(packed), self.depth), dtype=np.int32)
        # The cast keeps the lowest 32 bits of each number, without a temporary array of 64 bits.
        np.right_shift(packed[:, None], self._shifts, out=values, casting="unsafe")
        values &= self._masks
        return values

    def semantic_id(self, values: IntArray) -> SemanticId:
        """One row of values, int32 [L + N + 1], as a `SemanticId`."""
        row = values.tolist()
        return SemanticId(tuple(row[: self.levels]), tuple(row[self.levels : -1]), row[-1])

    def token_names(self, semantic_id: SemanticId) -> list[str]:
        """Readable names of the tokens: `<a_12>` to `<d_88>`, `<e_3>`, and `<s_1>` if the suffix is not 0.

        These are exactly the tokens that represent the item in a history, in their order.
        """
        names = self.position_names(semantic_id)
        return names if semantic_id.suffix else names[:-1]

    def position_names(self, semantic_id: SemanticId) -> list[str]:
        """Readable names of all L + N + 1 tokens that the recommender writes, including a suffix of 0."""
        names = [f"<{chr(ord('a') + level)}_{code}>" for level, code in enumerate(semantic_id.codes)]
        letter = chr(ord("a") + self.levels)
        names += [f"<{letter}_{expert}>" for expert in semantic_id.experts]
        names.append(f"<s_{semantic_id.suffix}>")
        return [names[position] for position in self._written]
