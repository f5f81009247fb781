"""What `semantic_t5` does with whole items, as graph operations.

Knows nothing of attention and of searching.

Symbols: B batch, S sequence of tokens, n items of the longest history, W beams, M model width, R rows of a table;
depth = L + N + 1.
"""

from __future__ import annotations

import numpy as np

from service.semantic_ids import SPECIAL_TOKENS, TokenLayout
from training.networks.graph import Graph, Value
from training.networks.token_tables import hash_factors, other_rows_at


class ItemGraph:
    """Adds operations on items to a graph."""

    def __init__(self, graph: Graph, layout: TokenLayout) -> None:
        self._graph = graph
        self._layout = layout

    def read(self, table: Value, history: Value, history_mask: Value) -> tuple[Value, Value]:
        """One vector an item.

        Parameters
        ----------
        table : float32 [R, M]
        history, history_mask : int64 [B, S], right-padded

        Returns
        -------
        float32 [B, n, M], and float32 [B, n], 1 where a history has an item
        """
        graph = self._graph
        is_read = graph.op("Equal", history_mask, 1)
        positions = self._positions(history)
        begins = graph.op("Or", self._starts_item(history) & is_read, graph.op("Equal", positions, 0))
        places = graph.op("CumSum", begins.cast("int64"), 1) - 1
        last = graph.op("ReduceMax", places, np.asarray([0, 1]), keepdims=0)
        numbers = graph.op("Range", 0, last + 1, 1).unsqueeze(1)
        # A product with zeros and ones sums the tokens of each item.
        belongs = (graph.op("Equal", places.unsqueeze(1), numbers) & is_read.unsqueeze(1)).cast("float32")
        vectors = belongs @ table.take(self._rows_of_sequences(history, positions))
        return vectors, graph.op("ReduceMax", belongs, np.asarray([2]), keepdims=0)

    def judge(self, own: Value, state: Value, items: Value) -> Value:
        """Products of states with the vectors of whole IDs.

        Parameters
        ----------
        own : float32 [buckets, M]
        state : float32 [B, M]
        items : int64 [B, W, depth] tokens

        Returns
        -------
        float32 [B, W]
        """
        graph = self._graph
        factors = np.asarray(hash_factors(self._layout.depth))
        hashed = graph.op("ReduceSum", items * factors, np.asarray([2]), keepdims=0)
        vectors = own.take(graph.op("Mod", hashed, graph.op("Squeeze", own.size(0))))
        return graph.op("Squeeze", vectors @ state.unsqueeze(2), np.asarray([2]))

    def _positions(self, history: Value) -> Value:
        """int64 [S], 0 to S - 1."""
        return self._graph.op("Range", 0, self._graph.op("Squeeze", history.size(1)), 1)

    def _starts_item(self, tokens: Value) -> Value:
        """As `token_tables.starts_item`."""
        layout = self._layout
        is_first = (tokens >= np.int64(SPECIAL_TOKENS)) & (tokens < np.int64(SPECIAL_TOKENS + layout.codes))
        leads = tokens >= np.int64(layout.vocabulary - len(layout.domains))
        return self._graph.op("Or", is_first, leads)

    def _rows_of_sequences(self, history: Value, positions: Value) -> Value:
        """As `token_tables.rows_of_sequences`."""
        graph, layout = self._graph, self._layout
        level = graph.op("Max", history - SPECIAL_TOKENS, 0) // layout.codes
        last = graph.op("Squeeze", history.size(1)) - 1
        places = graph.op("Max", graph.op("Min", positions + layout.levels - level, last), 0)
        return self._rows(history, history.take_along(places, axis=1))

    def _rows(self, tokens: Value, expert_tokens: Value) -> Value:
        """As `token_tables._rows`."""
        graph, layout = self._graph, self._layout
        if not layout.experts_per_item:
            return tokens
        codes = layout.levels * layout.codes
        expert = graph.op("Max", graph.op("Min", expert_tokens - (SPECIAL_TOKENS + codes), layout.experts - 1), 0)
        is_code = (tokens >= np.int64(SPECIAL_TOKENS)) & (tokens < np.int64(SPECIAL_TOKENS + codes))
        return graph.where(is_code, tokens + expert * codes, tokens + other_rows_at(layout))
