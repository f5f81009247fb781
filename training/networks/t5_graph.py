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
from training.networks.graph import Graph, Value

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
    keys_values : by decoder layer, two float32 [B, H, S, d]
    mask : float32 [B, 1, 1, S], 0 where a token is and `MASKED` where padding is
    batch : int64 [1], B
    """

    keys_values: list[KeysValues]
    mask: Value
    batch: Value


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
    state : its tensors, by the names of transformers' state dict

    Raises
    ------
    ModelError : the feed-forward network is neither `relu` nor `gated-gelu`
    """

    def __init__(self, graph: Graph, shape: T5Shape, state: Mapping[str, torch.Tensor]) -> None:
        if shape.feed_forward_proj not in ("relu", "gated-gelu"):
            raise ModelError(f"T5: feed_forward_proj is {shape.feed_forward_proj!r}, but must be relu or gated-gelu")
        self._graph = graph
        self._shape = shape
        self._state = state
        self._embedding = self._weight("shared.weight")
        # Tied embeddings: transformers scales the decoder's output before it meets the matrix.
        scale = shape.d_model**-0.5 if shape.scale_decoder_outputs else 1.0
        self._to_logits = graph.constant(state["shared.weight"].float().numpy().T * np.float32(scale), "to_logits")

    def encode(self, history: Value, history_mask: Value) -> EncodedHistory:
        """history, history_mask int64 [B, S] -> what the decoder needs of it."""
        mask = (1.0 - history_mask.cast("float32")).unsqueeze(1, 2) * MASKED
        bias = self._encoder_bias(history) + mask
        x = self._embedding.take(history)
        for number in range(self._shape.num_layers):
            own = f"encoder.block.{number}.layer.0.SelfAttention"
            normed = self._norm(x, f"encoder.block.{number}.layer.0.layer_norm")
            q, k, v = (self._heads_apart(self._linear(normed, f"{own}.{each}"), 0) for each in "qkv")
            x = x + self._linear(self._attend(q, k, v, bias), f"{own}.o")
            x = x + self._feed_forward(x, f"encoder.block.{number}.layer.1")
        x = self._norm(x, "encoder.final_layer_norm")
        keys_values = []
        for number in range(self._shape.num_decoder_layers):
            cross = f"decoder.block.{number}.layer.1.EncDecAttention"
            k, v = (self._heads_apart(self._linear(x, f"{cross}.{each}"), 0) for each in "kv")
            keys_values.append((k, v))
        return EncodedHistory(keys_values, mask, history.size(0))

    def step(
        self, tokens: Value, past: list[KeysValues], t: int, encoded: EncodedHistory
    ) -> tuple[Value, list[KeysValues]]:
        """Log-probabilities over the whole vocabulary of what follows `tokens`.

        Parameters
        ----------
        tokens : int [B * P], the newest token of every beam
        past : by decoder layer, keys and values [B * P, H, t, d] of the earlier positions; empty at the first step
        t : number of earlier positions

        Returns
        -------
        float32 [B * P, V], and `past` with the newest position added
        """
        shape, present = self._shape, []
        bias = self._decoder_bias(t)
        x = self._embedding.take(tokens)
        for number in range(shape.num_decoder_layers):
            block = f"decoder.block.{number}.layer"
            own, cross = f"{block}.0.SelfAttention", f"{block}.1.EncDecAttention"
            normed = self._norm(x, f"{block}.0.layer_norm")
            # One position a row: parting its heads moves nothing, so it needs no transpose.
            q, k, v = (
                self._linear(normed, f"{own}.{each}").reshape(0, shape.num_heads, 1, shape.d_kv) for each in "qkv"
            )
            if past:
                k = self._graph.concat([past[number][0], k], axis=2)
                v = self._graph.concat([past[number][1], v], axis=2)
                attended = self._graph.op("Softmax", q @ k.transpose(0, 1, 3, 2) + bias, axis=-1) @ v
            else:
                attended = v  # attention to a single position
            present.append((k, v))
            x = x + self._linear(attended.reshape(0, -1), f"{own}.o")

            # The beams of a request are the rows of one matrix here: its keys and values are shared, not repeated.
            q = self._linear(self._norm(x, f"{block}.1.layer_norm"), f"{cross}.q")
            attended = self._attend(self._heads_apart(q, encoded.batch), *encoded.keys_values[number], encoded.mask)
            x = x + self._linear(attended.reshape(-1, shape.num_heads * shape.d_kv), f"{cross}.o")
            x = x + self._feed_forward(x, f"{block}.2")
        logits = self._norm(x, "decoder.final_layer_norm") @ self._to_logits
        return self._graph.op("LogSoftmax", logits, axis=-1), present

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

    def _heads_apart(self, x: Value, batch: int | Value) -> Value:
        """[B, n, H * d], or [B * n, H * d] with `batch` given -> [B, H, n, d]."""
        return x.reshape(batch, -1, self._shape.num_heads, self._shape.d_kv).transpose(0, 2, 1, 3)

    def _attend(self, q: Value, k: Value, v: Value, bias: Value) -> Value:
        """q [B, H, m, d], k and v [B, H, n, d], bias that broadcasts to [B, H, m, n] -> [B, m, H * d].

        T5 does not scale the scores.
        """
        weights = self._graph.op("Softmax", q @ k.transpose(0, 1, 3, 2) + bias, axis=-1)
        return (weights @ v).transpose(0, 2, 1, 3).reshape(0, 0, self._shape.num_heads * self._shape.d_kv)

    def _bias_by_distance(self, side: str) -> np.ndarray:
        """float32 [2 * max_distance + 1, H]: bias of each relative position."""
        by_bucket = self._state[f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        return by_bucket.float()[distance_buckets(self._shape, bidirectional=side == "encoder")].numpy()

    def _encoder_bias(self, history: Value) -> Value:
        """float32 [1, H, S, S]: what position i adds to its attention to position j."""
        limit = self._shape.relative_attention_max_distance
        length = self._graph.op("Squeeze", history.size(1))
        positions = self._graph.op("Range", 0, length, 1)
        distance = self._graph.op("Clip", positions - positions.unsqueeze(1), -limit, limit)
        table = self._graph.constant(self._bias_by_distance("encoder"), "encoder.bias_by_distance")
        return table.take(distance + limit).transpose(2, 0, 1).unsqueeze(0)

    def _decoder_bias(self, t: int) -> Value:
        """float32 [1, H, 1, t + 1]: what position t adds to its attention to positions 0..t."""
        limit = self._shape.relative_attention_max_distance
        distance = np.maximum(np.arange(-t, 1), -limit)
        return self._graph.constant(self._bias_by_distance("decoder")[distance + limit].T[None, :, None, :])
