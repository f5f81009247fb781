"""An encoder of T5 that reads one position an item: see `semantic_t5`, which it is a part of.

Knows nothing of scoring items.

Symbols: B batch, S sequence of tokens, n items of the longest history, M model width, I items known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import T5Config
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.t5.modeling_t5 import T5Stack

from service.semantic_ids import TokenLayout
from training.networks.known_ids import KnownItems, KnownSizes, hash_parts
from training.networks.token_tables import rows_of_sequences, starts_item, table_rows

HEAD_SCALE = 0.1
"""Standard deviation of an item's vector in a fresh head, and in a fresh reader before it is scaled up again: Adam
moves small numbers as fast as large ones."""


@dataclass
class EncodedItems(BaseModelOutput):  # type: ignore[misc]
    """The encoder's output. `mask` is int64 [B, n], 1 at items, 0 at padding; `rows`, of the same shape, the rows of
    known items, 0 for others."""

    mask: Tensor | None = None
    rows: Tensor | None = None


def item_places(layout: TokenLayout, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """To which item of its history each token belongs.

    Parameters
    ----------
    tokens, mask : int64 [B, S], right-padded

    Returns
    -------
    int64 [B, S], from 0 (padding: the last item); int64 [B, n], 1 where a history has an item
    """
    begins = starts_item(layout, tokens) & (mask == 1)
    begins[:, 0] = True  # also in an empty history, which is one padding token
    places = begins.long().cumsum(dim=1) - 1
    counts = places[:, -1:] + 1
    items = torch.arange(int(counts.max()), device=tokens.device)
    return places, (items < counts).long()


@dataclass(frozen=True)
class Semantics:
    """What a network has beyond T5.

    Attributes
    ----------
    item_share : weight of the head in the scores of a search; the decoder has the rest
    known : how many IDs of training have vectors of their own, and how many prefixes of IDs
    read_dropout : share dropped while training throughout the encoder, in place of T5's
    likeness : whether items are scored by likeness to the last one where no item of a history is known
    """

    item_share: float
    known: KnownSizes
    read_dropout: float
    likeness: bool = False


class EncoderOfItems(T5Stack):  # type: ignore[misc]
    """T5's encoder over items: tokens in, a state an item out, which has seen no later one.

    Parameters
    ----------
    config : of T5's encoder
    layout : of the tokens
    semantics : how many IDs have a vector of their own
    """

    def __init__(self, config: T5Config, layout: TokenLayout, semantics: Semantics) -> None:
        super().__init__(config)
        self.layout, known = layout, semantics.known
        self.reader = nn.Embedding(table_rows(layout), config.d_model)
        self.reader_own = nn.Embedding(known.items + 1, config.d_model, padding_idx=0)
        nn.init.normal_(self.reader.weight, std=HEAD_SCALE * (layout.depth - 1) ** -0.5)
        nn.init.zeros_(self.reader_own.weight)
        self.register_buffer("item_slots", torch.zeros(known.item_slots, dtype=torch.int32))
        self.register_buffer("item_moves", torch.zeros(known.item_buckets, dtype=torch.int64))
        self.register_buffer("item_keys", torch.full((known.items + 1,), -1))
        self.register_buffer("hash_parts", hash_parts(layout), persistent=False)

    def known_rows(self, hashes: Tensor) -> Tensor:
        """Rows of IDs by the sums of their hash parts: int64 of the same shape, 0 for what is not known."""
        return KnownItems(self.item_slots, self.item_moves, self.item_keys).rows(hashes)

    def know(self, items: KnownItems) -> None:
        """Give each ID of training its row."""
        self.item_slots.copy_(items.slots)
        self.item_moves.copy_(items.moves)
        self.item_keys.copy_(items.keys)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, read_as_known: Tensor | None = None, **_: Any
    ) -> EncodedItems:
        """input_ids, attention_mask int64 [B, S] -> float32 [B, n, M].

        Items where `read_as_known`, bool [B, n], says no are read as if they had come after training.
        """
        places, mask = item_places(self.layout, input_ids, attention_mask)
        batch, items = mask.shape
        there = attention_mask == 1
        owners = (torch.arange(batch, device=mask.device)[:, None] * items + places)[there]
        read = self.reader(rows_of_sequences(self.layout, input_ids)[there])
        summed = torch.zeros(batch * items, read.shape[1], device=read.device, dtype=read.dtype)
        summed = summed.index_add(0, owners, read)
        hashes = torch.zeros(batch * items, device=mask.device, dtype=torch.long)
        hashes = hashes.index_add(0, owners, self.hash_parts[input_ids[there]])
        rows = self.known_rows(hashes)
        if read_as_known is not None:
            rows = rows * read_as_known.flatten()
        vectors = (summed + self.reader_own(rows)) / HEAD_SCALE
        lowest = torch.finfo(vectors.dtype).min
        # Padding follows the items, so a causal mask hides it as well.
        later = torch.full((items, items), lowest, device=mask.device, dtype=vectors.dtype).triu(1)
        encoded = super().forward(
            inputs_embeds=vectors.reshape(batch, items, -1), attention_mask=later.expand(batch, 1, items, items)
        )
        return EncodedItems(encoded.last_hidden_state, mask=mask, rows=rows.reshape(batch, items) * mask)


def last_state(states: Tensor, mask: Tensor) -> Tensor:
    """The encoder's state at the last item: states float32 [B, n, M], mask int64 [B, n] -> float32 [B, M]."""
    found: Tensor = states[torch.arange(len(states), device=states.device), mask.sum(dim=1) - 1]
    return found


def read_mask(encoded: Any, attention_mask: Any) -> Any:
    """Mask of an encoder's output: its own where it reads items, else that of its input."""
    return encoded.mask if isinstance(encoded, EncodedItems) else attention_mask
