"""A T5 that reads one position an item and may judge whole items: what `[network]` of a recommender can ask for beyond
transformers' own.

*Reading items.* The encoder's input is the sum of the vectors of an item's tokens, from a table of the encoder's own,
so a history of 20 items is 20 positions and not 100. The tokens that come in are the same.

*Judging items.* A head learns by cross-entropy over items, as SASRec does. An item's vector is the sum of its tokens'
vectors in a table of the head's own, and of one more for the whole ID; its score is the product with the decoder's
first state, which has seen the whole history and nothing yet of an item. Being a sum over tokens, the score guides the
beam search: every step adds the part of its token to the log-probability.

Both are functions of semantic IDs alone, so they hold for an item that came after training. Knows nothing of data sets
or of training.

Symbols: B batch, S sequence of tokens, n items of the longest history, V vocabulary, M model width, D decoder
positions;
depth = L + N + 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput
from transformers.models.t5.modeling_t5 import T5Stack

from service.semantic_ids import TokenLayout
from training.networks.token_tables import (
    buckets_of_items,
    rows_of_sequences,
    starts_item,
    table_rows,
)

READER, HEAD, OWN = "encoder.reader.weight", "item_head.weight", "item_own.weight"
"""Tensors that only such a network has: float32 [R, M], R as `token_tables.table_rows`, [V, M] and [buckets, M]."""
HEAD_SCALE = 0.3
"""Standard deviation of an item's vector in a fresh head: scores begin near each other, as T5's logits do not."""


@dataclass
class EncodedItems(BaseModelOutput):  # type: ignore[misc]
    """What the encoder returns; `mask` is int64 [B, n], 1 where the output is to be read."""

    mask: Tensor | None = None


@dataclass
class SemanticOutput(Seq2SeqLMOutput):  # type: ignore[misc]
    """What the network returns.

    Attributes
    ----------
    state : float32 [B, D, M], the decoder's output as it meets the embeddings
    item_scores : float32 [B, items], the head's, of the items asked about
    """

    state: Tensor | None = None
    item_scores: Tensor | None = None


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
    begins[:, 0] = True  # also of a history of nothing, which is one padding token
    places = begins.long().cumsum(dim=1) - 1
    counts = places[:, -1:] + 1
    items = torch.arange(int(counts.max()), device=tokens.device)
    return places, (items < counts).long()


class EncoderOfItems(T5Stack):  # type: ignore[misc]
    """T5's encoder over items: tokens in, a state an item out."""

    def __init__(self, config: T5Config, layout: TokenLayout, read_dropout: float) -> None:
        super().__init__(config)
        self.layout, self.read_dropout = layout, nn.Dropout(read_dropout)
        self.reader = nn.Embedding(table_rows(layout), config.d_model)
        # An item's vector is a sum, and in all as large as one vector of T5's own table.
        nn.init.normal_(self.reader.weight, std=(layout.depth - 1) ** -0.5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> EncodedItems:
        """input_ids, attention_mask int64 [B, S] -> float32 [B, n, M]."""
        places, mask = item_places(self.layout, input_ids, attention_mask)
        batch, items = mask.shape
        there = attention_mask == 1
        owners = (torch.arange(batch, device=mask.device)[:, None] * items + places)[there]
        read = self.reader(rows_of_sequences(self.layout, input_ids)[there])
        summed = torch.zeros(batch * items, read.shape[1], device=read.device, dtype=read.dtype)
        summed = self.read_dropout(summed.index_add(0, owners, read).reshape(batch, items, -1))
        return EncodedItems(super().forward(inputs_embeds=summed, attention_mask=mask).last_hidden_state, mask=mask)


@dataclass(frozen=True)
class Semantics:
    """What a network has beyond T5.

    Attributes
    ----------
    reads_items : whether it has the encoder of items; else that of T5
    item_weight : of the head's scores in a search; 0: no head
    item_buckets : vectors for whole semantic IDs, which the head adds to the sum of an item's tokens; 0: none. An ID
        has the one that it hashes to. They begin at zero, so most IDs that training did not see add nothing.
    read_dropout, state_dropout : shares dropped while training of what an encoder of items reads, and of the decoder's
        states
    """

    reads_items: bool = False
    item_weight: float = 0.0
    item_buckets: int = 0
    read_dropout: float = 0.0
    state_dropout: float = 0.0


class SemanticT5(T5ForConditionalGeneration):  # type: ignore[misc]
    """T5 with the encoder of items, the head over items, or both.

    Parameters
    ----------
    config : shape of the network
    layout : of its tokens
    semantics : what it has beyond T5
    """

    encoder: T5Stack

    def __init__(self, config: T5Config, layout: TokenLayout, semantics: Semantics) -> None:
        super().__init__(config)
        self.item_weight = semantics.item_weight
        self.state_dropout = nn.Dropout(semantics.state_dropout)
        if semantics.reads_items:
            encoder = EncoderOfItems(self.encoder.config, layout, semantics.read_dropout)
            # T5 initialises its layers as parts of a whole network only.
            encoder.load_state_dict(self.encoder.state_dict(), strict=False)
            encoder.set_input_embeddings(self.shared)
            self.encoder = encoder
        if semantics.item_weight:
            self.item_head = nn.Embedding(config.vocab_size, config.d_model)
            nn.init.normal_(self.item_head.weight, std=HEAD_SCALE * (layout.depth - 1) ** -0.5)
        has_own = semantics.item_weight > 0 and semantics.item_buckets > 0
        self.item_own = nn.Embedding(semantics.item_buckets, config.d_model) if has_own else None
        if self.item_own is not None:
            nn.init.zeros_(self.item_own.weight)

    def forward(  # noqa: PLR0917  as transformers' own
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        decoder_input_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        items: Tensor | None = None,
        **_: Any,
    ) -> SemanticOutput:
        """As T5's own: histories int64 [B, S], or what the encoder made of them, and tokens int64 [B, D].

        `items`, int64 [items, depth] tokens, are those that the head is to judge for every history.
        """
        encoded = encoder_outputs
        if encoded is None:
            encoded = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        decoded = self.decoder(
            input_ids=decoder_input_ids,
            encoder_hidden_states=encoded.last_hidden_state,
            encoder_attention_mask=read_mask(encoded, attention_mask),
            past_key_values=past_key_values,
            use_cache=use_cache,
        )
        state = self.state_dropout(decoded.last_hidden_state) * self.model_dim**-0.5
        return SemanticOutput(
            logits=self.lm_head(state),
            past_key_values=decoded.past_key_values,
            encoder_last_hidden_state=encoded.last_hidden_state,
            state=state,
            item_scores=None if items is None else state[:, 0] @ self.item_vectors(items).T,
        )

    def item_vectors(self, items: Tensor) -> Tensor:
        """The head's vectors of items: tokens int64 [..., depth] -> float32 [..., M]."""
        vectors: Tensor = self.item_head(items).sum(dim=-2)
        if self.item_own is not None:
            vectors = vectors + self.item_own(buckets_of_items(items, self.item_own.num_embeddings))
        return vectors

    def guide(self, state: Tensor) -> Tensor:
        """What every step of a search adds to the log-probability of a token: the decoder's first state,
        float32 [B, M] -> float32 [B, V]."""
        bias: Tensor = self.item_weight * (state @ self.item_head.weight.T)
        return bias

    def judge(self, state: Tensor, items: Tensor) -> Tensor:
        """What is added in the end to items that a search found: for an ID as a whole.

        Parameters
        ----------
        state : float32 [B, M], the decoder's first
        items : int64 [B, W, depth], their tokens

        Returns
        -------
        float32 [B, W]
        """
        if self.item_own is None:
            return torch.zeros(items.shape[:2], device=items.device)
        vectors = self.item_own(buckets_of_items(items, self.item_own.num_embeddings))
        judged: Tensor = self.item_weight * (vectors @ state[:, :, None]).squeeze(2)
        return judged


def item_weight(model: T5ForConditionalGeneration) -> float:
    """Weight of a network's head over items in a search; 0 where it has none."""
    return float(model.item_weight) if isinstance(model, SemanticT5) else 0.0


def read_mask(encoded: Any, attention_mask: Any) -> Any:
    """Mask of an encoder's output: its own where it reads items, else that of its input."""
    return encoded.mask if isinstance(encoded, EncodedItems) else attention_mask
