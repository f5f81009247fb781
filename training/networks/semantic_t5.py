"""A T5 that reads one position per item and scores whole items: a recommender with `history = "items"`.

*Reading items.* The encoder's input is the sum of the vectors of an item's tokens and of one for its whole ID, so a
history of 20 items is 20 positions and not 100. The input is still tokens. The encoder is causal: its state at an item
depends on the history up to there, so one pass over a user's items learns from every one of them.

*Scoring items.* A head learns by cross-entropy over items, as SASRec does. An item's vector is the sum of its tokens'
vectors in a table of the head's own and of one more for the whole ID; its score is the product with the encoder's state
at the last item.

*Looking ahead.* The score guides every step of a beam search. A prefix of an ID is scored by its tokens and by what the
best of the IDs that begin so is expected to add. The mean over these IDs would lose a good item among poor ones, so
their spread and number count as well: of n vectors with mean m and variance v, weighted by popularity, a state s
expects `s m + c e(n) sqrt(s^2 v)`, where e(n) is the expected maximum of n standard normal numbers. For a prefix that
came after training it expects what the tokens of all items add from there on. So a search keeps the prefixes under
which the head expects the best items, and ends with the head's own scores, mixed with the decoder's log-probabilities.

*Scoring by likeness.* Learned transitions say little after a history of items that came after training, such as those
of a new domain. Items are then scored by likeness to the last item instead of by the encoder's state: every row of the
head's table, and every prefix, has a second vector of M numbers, made from the items' content and never trained. So
both kinds of state have 2 M numbers, one half of them 0, and the products of a search need the other half alone.

All of this depends on semantic IDs alone, so it works for items that came after training. Knows nothing of data sets or
of training.

Symbols: B batch, S sequence of tokens, n items of the longest history, M model width, H rows of the head's table, D
decoder positions, A histories that the decoder goes on after, I items, C strings of tokens; depth = L + N + 1.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import Seq2SeqLMOutput

from service.semantic_ids import TokenLayout
from training.networks.item_encoder import (
    HEAD_SCALE,
    EncodedItems,
    EncoderOfItems,
    Semantics,
    item_places,
    last_state,
    read_mask,
)
from training.networks.known_ids import KnownIds, hash_parts, no_suffix_token, prefix_rows
from training.networks.likeness import state_or_likeness
from training.networks.lookahead import behind_prefixes
from training.networks.semantic_state import AHEAD, AHEAD_SLOTS, LIKENESS
from training.networks.token_tables import head_rows, head_rows_of_items, head_rows_of_sequences


@dataclass
class SemanticOutput(Seq2SeqLMOutput):  # type: ignore[misc]
    """The network's output. `item_vectors`, float32 [1 or 2, I, M], are the head's vectors of the items asked for: as
    they are and, on request, as they would be if some were new."""

    item_vectors: Tensor | None = None


class SemanticT5(T5ForConditionalGeneration):  # type: ignore[misc]
    """T5 with the encoder of items and the head over items.

    Parameters
    ----------
    config : shape of the network
    layout : of its tokens
    semantics : settings of what it has beyond T5
    """

    encoder: EncoderOfItems

    def __init__(self, config: T5Config, layout: TokenLayout, semantics: Semantics) -> None:
        super().__init__(config)
        self.item_share = semantics.item_share
        reading = copy.deepcopy(self.encoder.config)
        reading.dropout_rate = semantics.read_dropout
        encoder = EncoderOfItems(reading, layout, semantics)
        # T5 initialises its layers as parts of a whole network only.
        encoder.load_state_dict(self.encoder.state_dict(), strict=False)
        encoder.set_input_embeddings(self.shared)
        self.encoder = encoder
        width, known = config.d_model, semantics.known
        self.layout = layout
        # Suffix 0 has a zero vector; its row follows those of codes and experts.
        no_suffix = head_rows(layout) - (layout.vocabulary - no_suffix_token(layout))
        self.item_head = nn.Embedding(head_rows(layout), width, padding_idx=no_suffix)
        nn.init.normal_(self.item_head.weight, std=HEAD_SCALE * (layout.depth - 1) ** -0.5)
        nn.init.zeros_(self.item_head.weight[no_suffix])
        self.item_own = nn.Embedding(known.items + 1, width, padding_idx=0)
        nn.init.zeros_(self.item_own.weight)
        alike = width if semantics.likeness else 0
        self.register_buffer(LIKENESS, torch.zeros(head_rows(layout), alike), persistent=alike > 0)
        rows = (layout.depth - 1 + known.prefixes) * (2 if semantics.likeness else 1)
        self.register_buffer(AHEAD, torch.zeros(rows, 2 * width, dtype=torch.float16))
        self.register_buffer(AHEAD_SLOTS, torch.zeros(known.prefix_slots, dtype=torch.int32))
        self.register_buffer("hash_parts", hash_parts(layout), persistent=False)

    def forward(  # noqa: PLR0917  as transformers' own
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        decoder_input_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        rows: Tensor | None = None,
        seen: Tensor | None = None,
        items: Tensor | None = None,
        known: Tensor | None = None,
        read_as_known: Tensor | None = None,
        **_: Any,
    ) -> SemanticOutput:
        """As T5's own: histories int64 [B, S], or what the encoder made of them, and tokens int64 [B, D].

        With `rows` and `seen`, int64 [A], the tokens [A, D] go on after the first `seen` positions of history `rows`.
        `items`, int64 [I, depth] tokens, asks for the head's vectors of items; with `known`, bool [I], also for vectors
        as if the items marked False had come after training. `read_as_known`: see the encoder.
        """
        encoded = encoder_outputs
        if encoded is None:
            encoded = self.encoder(input_ids=input_ids, attention_mask=attention_mask, read_as_known=read_as_known)
        states = encoded.last_hidden_state
        crossed, mask = states, read_mask(encoded, attention_mask)
        if rows is not None and seen is not None:
            crossed = states[rows]
            mask = (torch.arange(states.shape[1], device=states.device) < seen[:, None]).long()
        decoded = self.decoder(
            input_ids=decoder_input_ids,
            encoder_hidden_states=crossed,
            encoder_attention_mask=mask,
            past_key_values=past_key_values,
            use_cache=use_cache,
        )
        return SemanticOutput(
            logits=self.lm_head(decoded.last_hidden_state * self.model_dim**-0.5),
            past_key_values=decoded.past_key_values,
            encoder_last_hidden_state=states,
            item_vectors=None if items is None else self._vectors_known_or_not(items, known),
        )

    def item_vectors(self, items: Tensor) -> Tensor:
        """The head's vectors of items: tokens int64 [..., depth] -> float32 [..., M or 2 M]."""
        vectors: Tensor = self.vectors_of_tokens(items) + self._extended(self._own_vectors(items))
        return vectors

    def vectors_of_tokens(self, items: Tensor) -> Tensor:
        """The same for items that came after training, whose IDs have no vector as a whole."""
        vectors: Tensor = self._of_rows(head_rows_of_items(self.layout, items)).sum(dim=-2)
        return vectors

    def _of_rows(self, rows: Tensor) -> Tensor:
        """int64 [...] -> float32 [..., M or 2 M]."""
        return torch.cat([self.item_head(rows), self.item_likeness[rows]], dim=-1)

    def _extended(self, vectors: Tensor) -> Tensor:
        """float32 [..., M] -> [..., M or 2 M], the rest zeros."""
        return F.pad(vectors, (0, self.item_likeness.shape[1]))

    def _own_vectors(self, items: Tensor) -> Tensor:
        found: Tensor = self.item_own(self.encoder.known_rows(self.hash_parts[items].sum(dim=-1)))
        return found

    def _vectors_known_or_not(self, items: Tensor, known: Tensor | None) -> Tensor:
        """int64 [I, depth], bool [I] -> float32 [1 or 2, I, M]; without likeness, which is not trained."""
        shared, own = self.item_head(head_rows_of_items(self.layout, items)).sum(dim=-2), self._own_vectors(items)
        if known is None:
            return torch.stack([shared + own])
        return torch.stack([shared + own, shared + own * known[:, None]])

    @torch.no_grad()
    def know(self, known: KnownIds) -> None:
        """Give each ID of training, and each prefix of one, its row."""
        self.encoder.know(known.items)
        self.ahead_slots.copy_(known.prefix_slots)

    @torch.no_grad()
    def look_ahead(self, items: Tensor, weights: Tensor) -> None:
        """Set the table of what prefixes promise: the weighted mean of what their items' vectors add to them, and the
        variance times the square of how many deviations above the mean the best of them is expected.

        Parameters
        ----------
        items : int64 [I, depth] tokens of all items
        weights : float32 [I], above 0
        """
        own = self._own_vectors(items)
        behind = partial(
            behind_prefixes,
            tokens=head_rows_of_items(self.layout, items),
            prefixes=prefix_rows(self.ahead_slots, self.hash_parts[items].cumsum(dim=1)[:, :-1]),
            weights=weights,
            count=self._prefixes(),
        )
        tables = [behind(self.item_head.weight, own)]
        if self.item_likeness.shape[1]:
            tables.append(behind(self.item_likeness, torch.zeros_like(own)))
        self.item_ahead.copy_(torch.cat(tables))

    def _prefixes(self) -> int:
        """How many rows of `item_ahead` are of the head; those of likeness follow."""
        return len(self.item_ahead) // (2 if self.item_likeness.shape[1] else 1)

    def scoring_state(self, encoded: EncodedItems, history: Tensor, mask: Tensor) -> Tensor:
        """The vector that scores items: the encoder's state at the last one, or its content if no item is known.

        Parameters
        ----------
        encoded : what the encoder made of the histories
        history, mask : int64 [B, S]

        Returns
        -------
        float32 [B, M or 2 M]
        """
        state = last_state(encoded.last_hidden_state, read_mask(encoded, mask))
        if not self.item_likeness.shape[1]:
            return state
        places, _ = item_places(self.layout, history, mask)
        is_part = (places == places[:, -1:]) & (mask == 1)
        content = self.item_likeness[head_rows_of_sequences(self.layout, history)] * is_part[..., None]
        return state_or_likeness(state, content.sum(dim=1), encoded.rows, encoded.mask)

    def guide(self, state: Tensor) -> Tensor:
        """What each row of the head's table adds to a score: states float32 [B, M or 2 M] -> [B, H]."""
        bias: Tensor = self.item_share * (state @ torch.cat([self.item_head.weight, self.item_likeness], dim=1).T)
        return bias

    def prospect(self, state: Tensor, hashes: Tensor, position: int) -> Tensor:
        """What the head expects the best ID of a prefix to add to its score; for whole IDs, what their own vector adds.

        Parameters
        ----------
        state : float32 [B, M or 2 M], as `scoring_state` gives it
        hashes : int64 [B, C], sums of the hash parts of the tokens so far
        position : of the last of these tokens

        Returns
        -------
        float32 [B, C]; 0 for whole IDs that training did not see
        """
        by_head = state[:, : self.item_head.embedding_dim]
        if position == self.layout.depth - 1:
            expected = self.item_own.weight[self.encoder.known_rows(hashes)] @ by_head[:, :, None]
        else:
            rows = prefix_rows(self.ahead_slots, hashes, position)
            if state.shape[1] > by_head.shape[1]:
                by_likeness = state[:, by_head.shape[1] :]
                rows = rows + self._prefixes() * (by_likeness != 0).any(dim=1, keepdim=True)
                state = by_head + by_likeness
            vectors = self.item_ahead[rows].to(state.dtype)
            means, variances = vectors.chunk(2, dim=2)
            expected = means @ state[:, :, None] + (variances @ state.square()[:, :, None]).sqrt()
        found: Tensor = self.item_share * expected.squeeze(2)
        return found
