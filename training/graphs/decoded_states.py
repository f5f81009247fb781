"""The decoder's self-attention cache under beam search, in two layouts that compute the same.

On a CPU each beam has its own keys and values, copied from the beam that it continues. On a GPU, where every copy is a
kernel launch and attention to hundreds of states takes no longer than to six, all beams of a request share one row of
states, and a mask tells which of them each beam descends from. Knows nothing of what the states mean.

Symbols: B batch, P beams a request has at this step, H heads, d width of a head, t positions decoded before this one, s
states that a request's beams share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from training.graphs.graph import Graph, Value
from training.graphs.position_bias import MASKED, PositionBias

KeysValues = tuple[Value, Value]
"""Keys and values of attention."""

ALIGNED = 8
"""The number of shared states is padded to a multiple of this: fast attention kernels read eight halves at once."""


class DecodedStates(Protocol):
    """States of one step, and of those before it.

    Attributes
    ----------
    count : positions that a beam decodes in this step
    """

    @property
    def count(self) -> int: ...

    def attend(self, q: Value, k: Value, v: Value) -> Value:
        """Self-attention of the newest states in the next layer: three float32 [B * P, count, H * d] -> that shape."""

    def continued(self, rows: Value) -> DecodedStates:
        """For the next step, whose beams continue these: `rows`, int64 [B * W], of the newest states [B * P]."""


class OwnStates:
    """A cache for each beam.

    Parameters
    ----------
    graph : where to add operations
    bias : of the decoder's positions
    heads : H
    past : by layer, keys and values [B * P, H, t, d]; none at the first step
    t : see the symbols
    count : see `DecodedStates`; 1 at the first step
    """

    def __init__(  # noqa: PLR0917  those of `SharedStates`, and how many positions there were and are
        self,
        graph: Graph,
        bias: PositionBias,
        heads: int,
        past: Sequence[KeysValues] = (),
        t: int = 0,
        count: int = 1,
    ) -> None:
        self._graph, self._bias, self._heads = graph, bias, heads
        self._past, self._t, self.count = past, t, count
        self._present: list[KeysValues] = []

    def attend(self, q: Value, k: Value, v: Value) -> Value:
        """As `DecodedStates.attend`."""
        if not self._past:
            # Attention to a single position. Parting its heads moves nothing.
            self._present.append((k.reshape(0, self._heads, 1, -1), v.reshape(0, self._heads, 1, -1)))
            return v
        past, bias = self._past[len(self._present)], self._bias.decoder(self._t, self.count)
        attended, keys_values = self._graph.cached_attention(q, k, v, bias, past, self._heads)
        self._present.append(keys_values)
        return attended

    def continued(self, rows: Value, count: int = 1) -> OwnStates:
        """As `DecodedStates.continued`, with `count` positions to be decoded at once."""
        past = [(keys.take(rows), values.take(rows)) for keys, values in self._present]
        return OwnStates(self._graph, self._bias, self._heads, past, self._t + self.count, count)


class SharedStates:
    """One cache for all beams of a request, of which each decodes one position in a step.

    Parameters
    ----------
    graph, bias, heads : as of `OwnStates`
    batch : int64 [1], B
    past : by layer, keys and values [B, s, H * d]; none at the first step
    descends : float32 [B, P, s], 0 where a beam descends from a state and `MASKED` where not; None at the first step,
        where a request has one beam
    sizes : by position, int64 [1], how many of the states belong to it
    """

    count = 1

    def __init__(  # noqa: PLR0917  those of `OwnStates`, and what tells the states of a beam from another's
        self,
        graph: Graph,
        bias: PositionBias,
        heads: int,
        batch: Value,
        past: Sequence[KeysValues] = (),
        descends: Value | None = None,
        sizes: Sequence[Value] = (),
    ) -> None:
        self._graph, self._bias, self._heads, self._batch, self._past = graph, bias, heads, batch, past
        self._present: list[KeysValues] = []
        beams = graph.shape(1) if descends is None else descends.size(1)
        added = (beams + (ALIGNED - 1)) // ALIGNED * ALIGNED
        self._filling, self._sizes = added - beams, [*sizes, added]
        # Among the newest states a beam may attend to its own alone.
        places = [graph.op("Range", 0, graph.op("Squeeze", size), 1) for size in (added, beams)]
        others = places[0].differs(places[1].unsqueeze(1)).cast(graph.real) * MASKED
        newest = graph.op("Expand", others, graph.concat([batch, beams, added], axis=0))
        self._seen = newest if descends is None else graph.concat([descends, newest], axis=2)
        if past:
            self._mask = self._seen.unsqueeze(1) + self._bias_by_state()

    def attend(self, q: Value, k: Value, v: Value) -> Value:
        """As `DecodedStates.attend`."""
        graph, batch, width = self._graph, self._batch, q.size(2)
        before = self._past[len(self._present)] if self._past else None
        filling = graph.op("Expand", 0.0, graph.concat([batch, self._filling, width], axis=0))
        sides: list[Value] = []
        for side, new in enumerate((k, v)):
            newest = [new.reshape(batch, -1, width), filling]
            sides.append(graph.concat(newest if before is None else [before[side], *newest], axis=1))
        keys, values = sides
        self._present.append((keys, values))
        if before is None:
            # Attention to a single position.
            return v
        return graph.attention(q.reshape(batch, -1, width), keys, values, self._mask, self._heads).reshape(-1, 1, width)

    def continued(self, rows: Value) -> SharedStates:
        """As `DecodedStates.continued`."""
        states = self._seen.size(2)
        descends = self._seen.reshape(-1, states).take(rows).reshape(self._batch, -1, states)
        return SharedStates(self._graph, self._bias, self._heads, self._batch, self._present, descends, self._sizes)

    def _bias_by_state(self) -> Value:
        """float32 [1, H, 1, s + added]: the position bias of each state."""
        positions = [self._graph.op("Expand", position, size) for position, size in enumerate(self._sizes)]
        return self._bias.decoder(len(positions) - 1).take(self._graph.concat(positions, axis=0), axis=3)
