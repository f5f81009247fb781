"""All continuations of the beams of a search, so that the decoder reads the rest of their IDs in one pass.

Once a few codes are written, hardly any beam has a choice: among 20,000 items, 50 beams of three codes have some 52
continuations. A decoder step for each further position then spends most of its time on copying states and on products
with few rows. So all continuations are listed from the index and decoded at once, as in speculative decoding, where the
draft would be the index. The search then takes its usual steps, and looks the log-probabilities up. If a request has
more continuations than there is room for, none are used. Independent of networks and of how beams are chosen.

Symbols: those of `beams`, and m tokens that the beams have written, Q = depth - m positions left, C room, K the most
continuations of any request, at least 1. A *level* holds the prefixes of one length that begin with a beam's prefix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.graphs.beams import NOTHING, Beams, SearchInputs, Standing
from training.graphs.graph import Graph, Value

SPARE = 5
"""There is room for a fifth more continuations than beams. Every continuation costs products at all positions left, so
with a third more these cost as much as the fewer steps save (docs/experiments.md)."""

ZERO = np.int32(0)


@dataclass(frozen=True)
class _Level:
    """The prefixes of one length, grouped by the prefix that they continue.

    Attributes
    ----------
    first : int64 [B, W or C], for each prefix of the level before (for the first level: each beam), its first
        continuation
    start : int32 [B, W or C], for the same prefixes, where their edges begin in the index
    parent : int64 [B, C], for each prefix, the one of the level before that it continues; 0 in unused room
    token : int32 [B, C], its newest token
    """

    first: Value
    start: Value
    parent: Value
    token: Value


class Continuations:
    """Lists what follows the beams, up to the last token but one; the decoder never reads the last.

    Parameters
    ----------
    graph : where to add operations
    inputs : the constraint index
    written : m, at least 1 and at most depth - 2
    standing : W beams of every request

    Attributes
    ----------
    fit : bool [], whether no request has more than C; if not, nothing else here may be used
    left : Q
    """

    def __init__(self, graph: Graph, inputs: SearchInputs, written: int, standing: Standing) -> None:
        self._graph = graph
        self.left = len(inputs.child_slots) - written
        self._batch, self._width = standing.node.size(0), inputs.beam_slots.size(0)
        self._room = self._width + self._width // SPARE
        room = graph.op("Squeeze", self._room).cast("int32")
        slot = graph.op("Range", ZERO, room, np.int32(1)).unsqueeze(0)
        node, alive = standing.node, standing.score > NOTHING
        self._levels: list[_Level] = []
        totals: list[Value] = []
        for _ in range(self.left - 1):
            here = graph.where(alive, node, ZERO)
            start, count = inputs.node_start.take(here), graph.where(alive, inputs.node_count.take(here), ZERO)
            end = graph.op("CumSum", count, 1)
            first = end - count
            totals.append(graph.op("Slice", end, np.asarray([-1]), graph.shape(2**62), np.asarray([1])))
            alive = slot < totals[-1]
            parent = (end.unsqueeze(1) < (slot + np.int32(1)).unsqueeze(2)).cast("int32")
            parent = graph.op("ReduceSum", parent, np.asarray([2]), keepdims=0).cast("int64")
            parent = graph.where(alive, parent, 0)
            edge = graph.where(alive, (start - first).take_along(parent, axis=1) + slot, ZERO)
            self._levels.append(_Level(first.cast("int64"), start, parent, inputs.edge_token.take(edge)))
            node = inputs.edge_child.take(edge)
        # A level that does not fit is cut off, and the levels after it too; but its own total shows it.
        most = graph.op("ReduceMax", graph.concat(totals, axis=1), keepdims=0)
        self.fit = most < (room + np.int32(1))
        self._most = graph.op("Max", most, np.int32(1)).cast("int64")

    def descent(self) -> tuple[list[Value], Value]:
        """What each continuation consists of.

        Returns
        -------
        by position from m on, the token written there, int32 [B, K]; and the beam that it continues, int64 [B, K]
        """
        graph, last = self._graph, self._levels[-1]
        end, axis = self._most.unsqueeze(0), np.asarray([1])
        token, ancestor = (graph.op("Slice", each, np.asarray([0]), end, axis) for each in (last.token, last.parent))
        tokens = [token]
        for level in self._levels[-2::-1]:
            tokens.append(level.token.take_along(ancestor, axis=1))
            ancestor = level.parent.take_along(ancestor, axis=1)
        return tokens[::-1], ancestor

    def beams(self) -> Value:
        """Places of the beams before the first step: int64 [B, W], 0..W-1."""
        beam = self._graph.op("Range", 0, self._graph.op("Squeeze", self._width), 1)
        return self._graph.op("Expand", beam, self._graph.concat([self._batch, self._width], axis=0))

    def rows(self, position: int, places: Value) -> Value:
        """Where among the pass' results [B * K * Q] stands what may follow the beams at m + `position`: int64 [B * W].

        Parameters
        ----------
        places : int64 [B, W], of the beams among the prefixes of the level before; at first as of `beams`
        """
        graph = self._graph
        for level in self._levels[position:]:
            # Of a beam that does not exist it may lie behind the last.
            places = graph.op("Min", level.first.take_along(places, axis=1), self._room - 1)
        request = graph.op("Range", 0, graph.op("Squeeze", self._batch), 1).unsqueeze(1)
        place = request * self._most + graph.op("Min", places, self._most - 1)
        return (place * self.left + position).reshape(-1)

    def after(self, position: int, places: Value, beams: Beams) -> Value:
        """Places of the beams that a step at m + `position` chose, int64 [B, W], from those before it."""
        level, source = self._levels[position], places.take_along(beams.parent, axis=1)
        child = (beams.edge - level.start.take_along(source, axis=1)).cast("int64")
        return self._graph.where(beams.score > NOTHING, level.first.take_along(source, axis=1) + child, 0)
