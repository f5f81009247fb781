"""T5 as graph operations: an encoder, and a decoder that takes one step, or some, for many beams at a time.

The same network as transformers' `T5ForConditionalGeneration` and built from its state dict, but with every size left
open, and with a request's cross-attention keys and values shared by all its beams. An encoder of items gets its input
from `scoring_graph`. Knows nothing of semantic IDs, tries or searching.

Symbols: B batch, S sequence, V vocabulary, M model width (d_model), H heads, d width of a head, n positions that the
encoder reads (S tokens, or the items of the longest history), P beams a request has at this step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from service.errors import ModelError
from training.graphs.decoded_states import DecodedStates, KeysValues, OwnStates, SharedStates
from training.graphs.graph import Graph, Value
from training.graphs.position_bias import MASKED, Distances, PositionBias
from training.graphs.scoring_graph import ScoringGraph


class T5Shape(Distances, Protocol):
    """The part of transformers' `T5Config` that the graph needs."""

    d_model: int
    d_kv: int
    num_layers: int
    num_decoder_layers: int
    num_heads: int
    layer_norm_epsilon: float
    feed_forward_proj: str
    scale_decoder_outputs: bool


@dataclass(frozen=True)
class EncodedHistory:
    """What the decoder needs of a request, computed once and shared by all its beams.

    Attributes
    ----------
    keys_values : by decoder layer, two float32 [B, n, H * d]
    mask : float32 [B, 1, 1, n], 0 where a position is read and `MASKED` where padding is
    batch : int64 [1], B
    state : float32 [B, M or 2 M], the vector that scores items, where the encoder reads items
    """

    keys_values: list[KeysValues]
    mask: Value
    batch: Value
    state: Value | None


class T5Graph:
    """Adds a T5's operations to a graph.

    Parameters
    ----------
    graph : where to add them
    shape : the network's configuration
    state : its tensors, by the names of transformers' state dict
    scoring : where the network reads and scores items; None: its encoder reads tokens
    half : half precision, up to the states that score items and up to the logits
    shared : the beams of a request share the states decoded before, as suits a GPU

    Attributes
    ----------
    scoring : as given
    writes : whether the decoder takes part in the search; if not, the graph has none

    Raises
    ------
    ModelError : the feed-forward network is neither `relu` nor `gated-gelu`
    """

    def __init__(
        self,
        graph: Graph,
        shape: T5Shape,
        state: Mapping[str, torch.Tensor],
        scoring: ScoringGraph | None = None,
        *,
        half: bool = False,
        shared: bool = False,
    ) -> None:
        if shape.feed_forward_proj not in ("relu", "gated-gelu"):
            raise ModelError(f"T5: feed_forward_proj is {shape.feed_forward_proj!r}, but must be relu or gated-gelu")
        self._exact = graph
        self._graph = graph.in_half() if half else graph
        self._shape = shape
        self._state = state
        self._shared = shared
        self._bias = PositionBias(self._graph, shape, state)
        self.scoring = scoring
        self.writes = scoring is None or scoring.item_share < 1

    def encode(self, history: Value, history_mask: Value) -> EncodedHistory:
        """history, history_mask int64 [B, S] -> what the decoder needs of it."""
        tokens: Value | None = history
        read = None if self.scoring is None else self.scoring.read(history, history_mask)
        if read is None:
            x, is_read = self._weight("shared.weight").take(history), history_mask.cast("float32")
        else:
            x, is_read, tokens = self._graph.adopt(read.vectors), read.is_read, None
        mask = self._graph.adopt(1.0 - is_read).unsqueeze(1, 2) * MASKED
        bias = self._bias.encoder(x) + (mask if read is None else self._bias.later(x))
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
        if self.scoring is not None and read is not None:
            state = self.scoring.scoring_state(self._exact.adopt(x), history, read)
        return EncodedHistory(keys_values, mask, history.size(0), state)

    def nothing_decoded(self, encoded: EncodedHistory) -> DecodedStates:
        """What the first step remembers."""
        heads = self._shape.num_heads
        if self._shared:
            return SharedStates(self._graph, self._bias, heads, encoded.batch)
        return OwnStates(self._graph, self._bias, heads)

    def step(self, tokens: Value, states: DecodedStates, encoded: EncodedHistory) -> Value:
        """Log-probabilities over the whole vocabulary of what follows each of `tokens`: float32 [B * P * count, V].

        Parameters
        ----------
        tokens : int [B * P, count], the newest tokens of every beam, as many as `states` has a beam decode at once
        states : of earlier positions; afterwards it remembers these too
        """
        shape = self._shape
        inner = shape.num_heads * shape.d_kv
        # The operator wants a row of the mask for every beam of a request.
        rows = self._graph.shape(1, 1, tokens.size(0) // encoded.batch * states.count, 1)
        mask = self._graph.op("Expand", encoded.mask, rows)
        x = self._weight("shared.weight").take(tokens)
        for number in range(shape.num_decoder_layers):
            block = f"decoder.block.{number}.layer"
            q, k, v = self._queries_keys_values(x, f"{block}.0", tokens if number == 0 else None)
            attended = states.attend(q, k, v)
            x = x + self._linear(attended, f"{block}.0.SelfAttention.o")

            # The beams of a request are the rows of one matrix here: its keys and values are shared, not repeated.
            cross = f"{block}.1.EncDecAttention"
            q = self._linear(self._norm(x, f"{block}.1.layer_norm"), f"{cross}.q").reshape(encoded.batch, -1, inner)
            attended = self._graph.attention(q, *encoded.keys_values[number], mask, shape.num_heads)
            x = x + self._linear(attended, f"{cross}.o").reshape(-1, states.count, shape.d_model)
            x = x + self._feed_forward(x, f"{block}.2")
        x = self._norm(x, "decoder.final_layer_norm").reshape(-1, shape.d_model)
        # Tied embeddings: transformers scales the decoder's output before it meets the matrix.
        scale = np.float32(shape.d_model**-0.5 if shape.scale_decoder_outputs else 1.0)
        to_logits = self._graph.constant(self._state["shared.weight"].float().numpy().T * scale, "to_logits")
        return self._exact.op("LogSoftmax", self._exact.adopt(x @ to_logits), axis=-1)

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
        x = self._exact.adopt(x)
        mean = self._exact.op("ReduceMean", self._exact.op("Pow", x, 2.0), np.asarray([-1]), keepdims=1)
        root = self._exact.op("Sqrt", mean + float(self._shape.layer_norm_epsilon))
        return self._graph.adopt(x / root) * self._weight(f"{name}.weight")

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
