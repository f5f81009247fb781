"""What `semantic_t5` has beyond T5, as graph operations: reading items and scoring them.

Binds the tensors of a network to the operations of `item_graph`. Knows nothing of attention or searching.

Symbols: B batch, S sequence of tokens, n items of the longest history, or that S tokens have room for, M model width, H
rows of the head's table, C strings of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from service.semantic_ids import TokenLayout
from training.graphs.graph import Graph, Value
from training.graphs.item_graph import ItemGraph, ItemTables, ReadItems
from training.networks.item_encoder import HEAD_SCALE
from training.networks.semantic_state import (
    AHEAD,
    AHEAD_SLOTS,
    HEAD,
    HEAD_OWN,
    ITEM_KEYS,
    ITEM_MOVES,
    ITEM_SLOTS,
    LIKENESS,
    READER,
    READER_OWN,
)


class ScoringGraph:
    """Adds the reader of items and the head over items to a graph.

    Parameters
    ----------
    graph : where to add them
    state : the network's tensors, by the names of `semantic_state`
    layout : of its tokens
    item_share : of the head in the scores of a search; the rest is the decoder's
    half : whether the products of states and vectors are computed in half precision
    room : as of `ItemGraph`

    Attributes
    ----------
    layout, item_share : as given
    """

    def __init__(
        self,
        graph: Graph,
        state: Mapping[str, torch.Tensor],
        layout: TokenLayout,
        item_share: float,
        *,
        half: bool = False,
        room: bool = False,
    ) -> None:
        self._graph = graph
        self._products = graph.in_half() if half else graph
        self._state = state
        self.layout = layout
        self.item_share = float(item_share)
        self._items = ItemGraph(graph, layout, room=room)
        self._scored = ItemGraph(self._products, layout)
        self._likeness = state[LIKENESS].float().numpy() if LIKENESS in state else None

    def read(self, history: Value, history_mask: Value) -> ReadItems:
        """Items of histories int64 [B, S], as the encoder's input is made of them: vectors float32 [B, n, M]."""
        read = self._items.read(self._of_items(self._graph, READER, READER_OWN), history, history_mask)
        return replace(read, vectors=read.vectors * (1.0 / HEAD_SCALE))

    def scoring_state(self, states: Value, history: Value, read: ReadItems) -> Value:
        """As `SemanticT5.scoring_state`: the encoder's states float32 [B, n, M] -> float32 [B, M or 2 M]."""
        # Every history has an item at least: the last is the one before the first that is not read.
        last = self._graph.op("ReduceSum", read.is_read, np.asarray([1])).cast("int64") - 1
        state = self._graph.op("Squeeze", self._graph.row_of_each(states, last), np.asarray([1]))
        if self._likeness is None:
            return state
        likeness = self._graph.constant(self._likeness, LIKENESS)
        return self._items.scoring_state(likeness, state, history, read, last)

    def guide(self, state: Value) -> Value:
        """As `SemanticT5.guide`: float32 [B, M or 2 M] -> float32 [B, H]."""
        rows = self._state[HEAD].float().numpy()
        if self._likeness is not None:
            rows = np.concatenate([rows, self._likeness], axis=1)
        by_row = self._products.adopt(state * self.item_share) @ self._products.constant(rows.T, "item_head")
        return self._graph.adopt(by_row)

    def prospect(self, state: Value, hashes: Value, position: int) -> Value:
        """As `SemanticT5.prospect`: int64 [B, C] -> float32 [B, C]."""
        graph, products, width, further = self._graph, self._products, self._state[HEAD].shape[1], None
        asked = by_head = state * self.item_share
        if self._likeness is not None:
            by_head, alike = (
                graph.op("Slice", asked, np.asarray([at]), np.asarray([at + width]), np.asarray([1]))
                for at in (0, width)
            )
            # One of the two is zero.
            asked = by_head + alike
            applies = graph.op("ReduceSum", alike * alike, np.asarray([1])) > 0.0
            further = applies.cast("int32") * np.int32(len(self._state[AHEAD]) // 2)
        if position == self.layout.depth - 1:
            tables = self._of_items(products, HEAD, HEAD_OWN)
            return graph.adopt(self._scored.expected(tables, products.adopt(by_head), hashes))
        tables = self._tables(products, HEAD, AHEAD, AHEAD_SLOTS, unknown=position)
        return graph.adopt(self._scored.expected_best(tables, products.adopt(asked), hashes, further))

    def parts(self, tokens: Value) -> Value:
        """What tokens add to a hash: int64 of the same shape."""
        return self._items.parts(tokens)

    def _of_items(self, graph: Graph, tokens: str, own: str) -> ItemTables:
        exact = self._constant(self._graph, ITEM_MOVES), self._constant(self._graph, ITEM_KEYS)
        return replace(self._tables(graph, tokens, own, ITEM_SLOTS), exact=exact)

    def _tables(self, graph: Graph, *names: str, unknown: int = 0) -> ItemTables:
        tokens, own, slots = (self._constant(graph, name) for name in names)
        return ItemTables(tokens, own, slots, unknown)

    def _constant(self, graph: Graph, name: str) -> Value:
        return graph.constant(self._state[name].numpy(), name)
