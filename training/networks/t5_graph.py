"""T5 as graph operations: an encoder, and a decoder that takes one step for many beams at a time.

The same network as transformers' `T5ForConditionalGeneration` and built from its state dict, but with every size left
open, and with a request's cross-attention keys and values shared by all its beams. Knows nothing of semantic IDs,
tries or searching.

Symbols: B batch, S sequence, V vocabulary, M model width (d_model), H heads, d width of a head, P beams a request has
at this step, t positions decoded before this one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from service.errors import ModelError
from service.semantic_ids import TokenLayout
from training.networks.graph import Graph, Value
from training.networks.item_encoder import HEAD_SCALE, ITEM_SLOTS, READER, READER_OWN
from training.networks.item_graph import ItemGraph, ItemTables, ReadItems
from training.networks.likeness import LIKENESS
from training.networks.semantic_t5 import AHEAD, AHEAD_SLOTS, HEAD, HEAD_OWN

MASKED = float(np.finfo(np.float32).min)
"""Added to the attention score of a masked position, as transformers does (a finite number keeps a fully masked row
free of NaN)."""

KeysValues = tuple[Value, Value]
"""Keys and values of attention."""


class T5Shape(Protocol):
    """The part of transformers' `T5Config` that the graph needs."""

    d_model: int
    d_kv: int
    num_layers: int
    num_decoder_layers: int
    num_heads: int
    relative_attention_num_buckets: int
    relative_attention_max_distance: int
    layer_norm_epsilon: float
    feed_forward_proj: str
    scale_decoder_outputs: bool


@dataclass(frozen=True)
class EncodedHistory:
    """What the decoder needs of a request, computed once and shared by all its beams.

    Attributes
    ----------
    keys_values : by decoder layer, two float32 [B, S, H * d]
    mask : float32 [B, 1, 1, S], 0 where a token is and `MASKED` where padding is
    batch : int64 [1], B
    state : float32 [B, M or 2 M], what items are judged by, where the encoder reads items
    """

    keys_values: list[KeysValues]
    mask: Value
    batch: Value
    state: Value | None


@dataclass(frozen=True)
class Step:
    """What a step of the decoder gives.

    Attributes
    ----------
    log_prob : float32 [B * P, V]
    keys_values : by decoder layer, of all positions up to the newest
    """

    log_prob: Value
    keys_values: list[KeysValues]


def distance_buckets(shape: T5Shape, bidirectional: bool) -> torch.Tensor:
    """int64 [2 * max_distance + 1]: bucket of each relative position from -max_distance to max_distance.

    All positions farther away share the bucket of the last one, so a table holds them all; a table also keeps the
    logarithm out of the graph, where a rounding at a bucket's border could differ between runtimes.
    """
    limit = shape.relative_attention_max_distance
    buckets = shape.relative_attention_num_buckets
    distance = torch.arange(-limit, limit + 1)
    offset = torch.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        offset = (distance > 0) * buckets
        distance = distance.abs()
    else:
        distance = -distance.clamp(max=0)
    exact = buckets // 2
    logarithmic = torch.log(distance.float().clamp(min=1) / exact) / math.log(limit / exact) * (buckets - exact)
    far = (exact + logarithmic.to(torch.int64)).clamp(max=buckets - 1)
    return offset + torch.where(distance < exact, distance, far)


class T5Graph:
    """Adds a T5's operations to a graph.

    Parameters
    ----------
    graph : where to add them
    shape : the network's configuration
    state : its tensors, by the names of transformers' state dict and of `semantic_t5`
    layout : of its tokens
    item_share : of the head over items in the scores of a search, where there is one

    Attributes
    ----------
    layout : of its tokens
    judges : whether the network reads and judges items
    writes : whether the decoder has a word in the search; without one it is not there

    Raises
    ------
    ModelError : the feed-forward network is neither `relu` nor `gated-gelu`
    """

    def __init__(
        self,
        graph: Graph,
        shape: T5Shape,
        state: Mapping[str, torch.Tensor],
        layout: TokenLayout,
        item_share: float = 0.0,
    ) -> None:
        if shape.feed_forward_proj not in ("relu", "gated-gelu"):
            raise ModelError(f"T5: feed_forward_proj is {shape.feed_forward_proj!r}, but must be relu or gated-gelu")
        self._graph = graph
        self._shape = shape
        self._state = state
        self.layout = layout
        self._items = ItemGraph(graph, layout)
        self._likeness = state[LIKENESS].float().numpy() if LIKENESS in state else None
        self.judges = READER in state
        self.item_share = float(item_share)
        self.writes = self.item_share < 1

    def encode(self, history: Value, history_mask: Value) -> EncodedHistory:
        """history, history_mask int64 [B, S] -> what the decoder needs of it; S is the positions that it reads."""
        tokens: Value | None = history
        read: ReadItems | None = None
        if self.judges:
            read = self._items.read(self._tables(READER, READER_OWN, ITEM_SLOTS), history, history_mask)
            x, is_read, tokens = read.vectors * (1.0 / HEAD_SCALE), read.is_read, None
        else:
            x, is_read = self._weight("shared.weight").take(history), history_mask.cast("float32")
        mask = (1.0 - is_read).unsqueeze(1, 2) * MASKED
        bias = self._encoder_bias(x) + (self._later(x) if self.judges else mask)
        for number in range(self._shape.num_layers):
            block = f"encoder.block.{number}.layer"
            q, k, v = self._queries_keys_values(x, f"{block}.0", tokens if number == 0 else None)
            attended = self._graph.attention(q, k, v, bias, self._shape.num_heads)
            x = x + self._linear(attended, f"{block}.0.SelfAttention.o")
            x = x + self._feed_forward(x, f"{block}.1")
        x = self._norm(x, "encoder.final_layer_norm")
        layers = self._shape.num_decoder_layers if self.writes else 0
        crosses = [f"decoder.block.{number}.layer.1.EncDecAttention" for number in range(layers)]
        keys_values = [(self._linear(x, f"{cross}.k"), self._linear(x, f"{cross}.v")) for cross in crosses]
        state = None
        if read is not None:
            # Every history has an item at least: the last is the one before the first that is not read.
            last = self._graph.op("ReduceSum", is_read, np.asarray([1])).cast("int64") - 1
            state = self._graph.op("GatherND", x, last, batch_dims=1)
            if self._likeness is not None:
                likeness = self._graph.constant(self._likeness, LIKENESS)
                state = self._items.judging_state(likeness, state, history, read, last)
        return EncodedHistory(keys_values, mask, history.size(0), state)

    def step(self, tokens: Value, past: list[KeysValues], t: int, encoded: EncodedHistory) -> Step:
        """Log-probabilities over the whole vocabulary of what follows `tokens`.

        Parameters
        ----------
        tokens : int [B * P, 1], the newest token of every beam
        past : by decoder layer, keys and values [B * P, H, t, d] of the earlier positions; empty at the first step
        t : number of earlier positions
        """
        shape, present = self._shape, []
        inner = shape.num_heads * shape.d_kv
        bias = self._decoder_bias(t)
        # The operator wants a row of the mask for every beam of a request.
        rows = self._graph.shape(1, 1, tokens.size(0) // encoded.batch, 1)
        mask = self._graph.op("Expand", encoded.mask, rows)
        x = self._weight("shared.weight").take(tokens)
        for number in range(shape.num_decoder_layers):
            block = f"decoder.block.{number}.layer"
            q, k, v = self._queries_keys_values(x, f"{block}.0", tokens if number == 0 else None)
            if past:
                attended, keys_values = self._graph.cached_attention(q, k, v, bias, past[number], shape.num_heads)
            else:
                # Attention to a single position. Parting its heads moves nothing.
                attended = v
                keys_values = (k.reshape(0, shape.num_heads, 1, -1), v.reshape(0, shape.num_heads, 1, -1))
            present.append(keys_values)
            x = x + self._linear(attended, f"{block}.0.SelfAttention.o")

            # The beams of a request are the rows of one matrix here: its keys and values are shared, not repeated.
            cross = f"{block}.1.EncDecAttention"
            q = self._linear(self._norm(x, f"{block}.1.layer_norm"), f"{cross}.q").reshape(encoded.batch, -1, inner)
            attended = self._graph.attention(q, *encoded.keys_values[number], mask, shape.num_heads)
            x = x + self._linear(attended, f"{cross}.o").reshape(-1, 1, shape.d_model)
            x = x + self._feed_forward(x, f"{block}.2")
        x = self._norm(x, "decoder.final_layer_norm").reshape(-1, shape.d_model)
        # Tied embeddings: transformers scales the decoder's output before it meets the matrix.
        scale = np.float32(shape.d_model**-0.5 if shape.scale_decoder_outputs else 1.0)
        to_logits = self._graph.constant(self._state["shared.weight"].float().numpy().T * scale, "to_logits")
        return Step(self._graph.op("LogSoftmax", x @ to_logits, axis=-1), present)

    def guide(self, state: Value) -> Value:
        """As `SemanticT5.guide`: float32 [B, M or 2 M] -> float32 [B, H]."""
        rows = self._state[HEAD].float().numpy()
        if self._likeness is not None:
            rows = np.concatenate([rows, self._likeness], axis=1)
        return (state * self.item_share) @ self._graph.constant(rows.T, "item_head")

    def prospect(self, state: Value, hashes: Value, position: int) -> Value:
        """As `SemanticT5.prospect`: int64 [B, C] -> float32 [B, C]."""
        graph, width, further = self._graph, self._shape.d_model, None
        asked = by_head = state * self.item_share
        if self._likeness is not None:
            by_head, alike = (
                graph.op("Slice", asked, np.asarray([at]), np.asarray([at + width]), np.asarray([1]))
                for at in (0, width)
            )
            # One of the two is nothing.
            asked = by_head + alike
            judges = graph.op("ReduceSum", alike * alike, np.asarray([1])) > 0.0
            further = judges.cast("int32") * np.int32(len(self._state[AHEAD]) // 2)
        if position == self.layout.depth - 1:
            return self._items.expected(self._tables(HEAD, HEAD_OWN, ITEM_SLOTS), by_head, hashes)
        tables = self._tables(HEAD, AHEAD, AHEAD_SLOTS, unknown=position)
        return self._items.expected_best(tables, asked, hashes, further)

    def parts(self, tokens: Value) -> Value:
        """What tokens add to a hash."""
        return self._items.parts(tokens)

    def _tables(self, *names: str, unknown: int = 0) -> ItemTables:
        tokens, own, slots = (self._graph.constant(self._state[name].numpy(), name) for name in names)
        return ItemTables(tokens, own, slots, unknown)

    def _queries_keys_values(self, x: Value, layer: str, tokens: Value | None) -> tuple[Value, Value, Value]:
        """What self-attention needs of x float32 [..., M]: three float32 [..., H * d].

        Where x is nothing but the embeddings of `tokens`, as in a first layer, the three are looked up by token.
        """
        names = [f"{layer}.SelfAttention.{each}" for each in "qkv"]
        if tokens is None:
            normed = self._norm(x, f"{layer}.layer_norm")
            q, k, v = (self._linear(normed, name) for name in names)
            return q, k, v
        embeddings = self._state["shared.weight"].float()
        root = (embeddings.square().mean(dim=1, keepdim=True) + self._shape.layer_norm_epsilon).sqrt()
        normed_embeddings = embeddings / root * self._state[f"{layer}.layer_norm.weight"].float()
        tables = [normed_embeddings @ self._state[f"{name}.weight"].float().T for name in names]
        q, k, v = (
            self._graph.constant(table.numpy(), f"{name}_by_token").take(tokens)
            for table, name in zip(tables, names, strict=True)
        )
        return q, k, v

    def _weight(self, name: str) -> Value:
        return self._graph.constant(self._state[name].float().numpy(), name)

    def _linear(self, x: Value, name: str) -> Value:
        """[..., in] -> [..., out] by `name.weight` [out, in]."""
        return x @ self._graph.constant(self._state[f"{name}.weight"].float().numpy().T, f"{name}.weight")

    def _norm(self, x: Value, name: str) -> Value:
        """T5's layer norm: scaled by the root mean square; no mean taken off, no bias. [..., M] -> [..., M].

        ONNX Runtime fuses exactly this sequence of operations into one.
        """
        mean = self._graph.op("ReduceMean", self._graph.op("Pow", x, 2.0), np.asarray([-1]), keepdims=1)
        root = self._graph.op("Sqrt", mean + float(self._shape.layer_norm_epsilon))
        return x / root * self._weight(f"{name}.weight")

    def _feed_forward(self, x: Value, name: str) -> Value:
        """[..., M] -> [..., M], the residual connection not included."""
        normed, dense = self._norm(x, f"{name}.layer_norm"), f"{name}.DenseReluDense"
        if self._shape.feed_forward_proj == "relu":
            return self._linear(self._graph.op("Relu", self._linear(normed, f"{dense}.wi")), f"{dense}.wo")
        gate = self._linear(normed, f"{dense}.wi_0")
        # GELU in the form with tanh, which transformers calls gelu_new.
        cubic = (gate + gate * gate * gate * 0.044715) * math.sqrt(2 / math.pi)
        gelu = gate * 0.5 * (self._graph.op("Tanh", cubic) + 1.0)
        return self._linear(gelu * self._linear(normed, f"{dense}.wi_1"), f"{dense}.wo")

    def _bias_by_distance(self, side: str) -> np.ndarray:
        """float32 [2 * max_distance + 1, H]: bias of each relative position."""
        by_bucket = self._state[f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        return by_bucket.float()[distance_buckets(self._shape, bidirectional=side == "encoder")].numpy()

    def _encoder_bias(self, x: Value) -> Value:
        """float32 [1, H, S, S]: what position i of x [B, S, M] adds to its attention to position j."""
        limit = self._shape.relative_attention_max_distance
        length = self._graph.op("Squeeze", x.size(1))
        positions = self._graph.op("Range", 0, length, 1)
        distance = self._graph.op("Clip", positions - positions.unsqueeze(1), -limit, limit)
        table = self._graph.constant(self._bias_by_distance("encoder"), "encoder.bias_by_distance")
        return table.take(distance + limit).transpose(2, 0, 1).unsqueeze(0)

    def _later(self, x: Value) -> Value:
        """float32 [n, n]: `MASKED` where position j of x [B, n, M] comes after i."""
        positions = self._graph.op("Range", 0, self._graph.op("Squeeze", x.size(1)), 1)
        return (positions > positions.unsqueeze(1)).cast("float32") * MASKED

    def _decoder_bias(self, t: int) -> Value:
        """float32 [1, H, 1, t + 1]: what position t adds to its attention to positions 0..t."""
        limit = self._shape.relative_attention_max_distance
        distance = np.maximum(np.arange(-t, 1), -limit)
        return self._graph.constant(self._bias_by_distance("decoder")[distance + limit].T[None, :, None, :])
