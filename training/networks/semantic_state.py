"""Tensors that `semantic_t5` has and T5 has not: their names in a state dict, and what their sizes say.

Knows nothing of what they are for.

Symbols: M model width, R rows of the reader's table (`token_tables.table_rows`), H of the head's
(`token_tables.head_rows`), I items known; depth = L + N + 1.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from service.errors import ModelError
from service.semantic_ids import TokenLayout
from training.networks.known_ids import KnownSizes

READER, READER_OWN, ITEM_SLOTS = "encoder.reader.weight", "encoder.reader_own.weight", "encoder.item_slots"
"""float32 [R, M], [I + 1, M], int32 [slots]."""
HEAD, HEAD_OWN, AHEAD, AHEAD_SLOTS = "item_head.weight", "item_own.weight", "item_ahead", "ahead_slots"
"""float32 [H, M], [I + 1, M], float16 [beginnings + depth - 1, 2 M], int32 [slots]. With likeness, as many rows more of
what lies behind beginnings, of that."""
LIKENESS = "item_likeness"
"""Of a network that has it: float32 [H, M]; sums of items have a mean square length of 1."""


def known_sizes(state: Mapping[str, Tensor], layout: TokenLayout) -> KnownSizes | None:
    """How many IDs the network knows whose weights these are; None: they are of one that does not read items.

    Raises
    ------
    ModelError : they look ahead in another way, that of the time when unknown beginnings had no rows
    """
    sizes = [len(state[name]) for name in (HEAD_OWN, ITEM_SLOTS, AHEAD, AHEAD_SLOTS) if name in state]
    if len(sizes) < 4:
        return None
    slots = state[AHEAD_SLOTS]
    if bool(((slots > 0) & (slots < layout.depth - 1)).any()):
        raise ModelError("the recommender looks ahead in a way that is no longer known; train it anew")
    beginnings = sizes[2] // (2 if LIKENESS in state else 1)
    return KnownSizes(sizes[0] - 1, sizes[1], beginnings - layout.depth + 1, sizes[3])
