"""Names, in a state dict, of the tensors that `semantic_t5` adds to T5, and the sizes that follow from them.

Knows nothing of their use.

Symbols: M model width, R rows of the reader's table (`token_tables.table_rows`), H of the head's
(`token_tables.head_rows`), I items known; depth = L + N + 1.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from service.errors import ModelError
from service.semantic_ids import TokenLayout
from training.networks.known_ids import KnownSizes

READER, READER_OWN = "encoder.reader.weight", "encoder.reader_own.weight"
"""float32 [R, M], [I + 1, M]."""
ITEM_SLOTS, ITEM_MOVES, ITEM_KEYS = "encoder.item_slots", "encoder.item_moves", "encoder.item_keys"
"""The table of whole IDs (`known_ids.KnownItems`): int32 [slots], int64 [buckets], [I + 1]."""
HEAD, HEAD_OWN, AHEAD, AHEAD_SLOTS = "item_head.weight", "item_own.weight", "item_ahead", "ahead_slots"
"""float32 [H, M], [I + 1, M], float16 [prefixes + depth - 1, 2 M], int32 [slots]. With likeness, as many
rows more, for it."""
LIKENESS = "item_likeness"
"""Of a network that has it: float32 [H, M]; sums of items have a mean square length of 1."""


def known_sizes(state: Mapping[str, Tensor], layout: TokenLayout) -> KnownSizes | None:
    """Sizes of the tables of IDs in a network's weights; None if the network does not read items.

    Raises
    ------
    ModelError : the weights are of an earlier version, whose table of IDs had no keys
    """
    if HEAD_OWN not in state:
        return None
    if ITEM_KEYS not in state:
        raise ModelError("the recommender finds the IDs that it knows in a way that is no longer known; train it anew")
    items, slots, buckets, prefix_slots = (
        len(state[name]) for name in (ITEM_KEYS, ITEM_SLOTS, ITEM_MOVES, AHEAD_SLOTS)
    )
    prefixes = len(state[AHEAD]) // (2 if LIKENESS in state else 1)
    return KnownSizes(items - 1, slots, buckets, prefixes - layout.depth + 1, prefix_slots)
