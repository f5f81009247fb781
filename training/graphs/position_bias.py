"""What T5 adds to its attention for where positions stand: by distance, from a table; and a mask of what comes later.

Knows nothing of what the positions hold.

Symbols: B batch, n positions of the encoder, M model width (d_model), H heads, t positions decoded before this one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch

from training.graphs.graph import Graph, Value

MASKED = float(np.finfo(np.float32).min)
"""Added to the attention score of a masked position, as transformers does (a finite number keeps a fully masked row
free of NaN)."""


class Distances(Protocol):
    """The part of transformers' `T5Config` that says how distances are binned."""

    relative_attention_num_buckets: int
    relative_attention_max_distance: int


def distance_buckets(shape: Distances, bidirectional: bool) -> torch.Tensor:
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


class PositionBias:
    """Adds the biases of a network to a graph.

    Parameters
    ----------
    graph : where to add them
    shape : how distances are binned
    state : the network's tensors, by the names of transformers' state dict
    """

    def __init__(self, graph: Graph, shape: Distances, state: Mapping[str, torch.Tensor]) -> None:
        self._graph = graph
        self._shape = shape
        self._state = state

    def encoder(self, x: Value) -> Value:
        """float32 [1, H, n, n]: what position i of x [B, n, M] adds to its attention to position j."""
        limit = self._shape.relative_attention_max_distance
        length = self._graph.op("Squeeze", x.size(1))
        positions = self._graph.op("Range", 0, length, 1)
        distance = self._graph.op("Clip", positions - positions.unsqueeze(1), -limit, limit)
        table = self._graph.constant(self._by_distance("encoder"), "encoder.bias_by_distance")
        return table.take(distance + limit).transpose(2, 0, 1).unsqueeze(0)

    def later(self, x: Value) -> Value:
        """float32 [n, n]: `MASKED` where position j of x [B, n, M] comes after i."""
        positions = self._graph.op("Range", 0, self._graph.op("Squeeze", x.size(1)), 1)
        return (positions > positions.unsqueeze(1)).cast(self._graph.real) * MASKED

    def decoder(self, t: int, count: int = 1) -> Value:
        """float32 [1, H, count, t + count]: what positions t..t + count - 1 add to their attention to those from 0 on,
        `MASKED` where a position comes later."""
        limit = self._shape.relative_attention_max_distance
        distance = np.clip(np.arange(t + count) - np.arange(t, t + count)[:, None], -limit, limit)
        bias = self._by_distance("decoder")[distance + limit].transpose(2, 0, 1)
        return self._graph.constant(np.where(distance > 0, np.float32(MASKED), bias)[None])

    def _by_distance(self, side: str) -> np.ndarray:
        """float32 [2 * max_distance + 1, H]: bias of each relative position."""
        by_bucket = self._state[f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        return by_bucket.float()[distance_buckets(self._shape, bidirectional=side == "encoder")].numpy()
