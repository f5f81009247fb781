"""What `semantic_t5` does with whole items, as graph operations.

Knows nothing of attention and of searching.

Symbols: B batch, S sequence of tokens, n items of the longest history, or that S tokens have room for, I items known, V
vocabulary, M model width, R rows of a table, H of the head's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from service.semantic_ids import SPECIAL_TOKENS, TokenLayout
from training.graphs.graph import Graph, Value
from training.networks.known_ids import hash_parts
from training.networks.likeness import ALIKE
from training.networks.token_tables import expert_place, experts_at, first_tokens, other_rows_at


@dataclass(frozen=True)
class ItemTables:
    """Where vectors are looked up.

    Attributes
    ----------
    tokens : float32 [R or V, M], of tokens
    own : float32 [I + 1, M], of known IDs, or float16 [depth + prefixes, 2 M], of prefixes
    slots : int32 [slots], rows of `own`
    unknown : row of unknown prefixes
    exact : of known IDs, int64 [buckets] and [I + 1], `moves` and `keys` of `known_ids.KnownItems`
    """

    tokens: Value
    own: Value
    slots: Value
    unknown: int = 0
    exact: tuple[Value, Value] | None = None


@dataclass(frozen=True)
class ReadItems:
    """Items of histories.

    Attributes
    ----------
    vectors : float32 [B, n, M]
    is_read : float32 [B, n], 1 where a history has an item
    belongs : float32 [B, n, S], 1 where a token is of an item
    known : int32 [B, n], row of an ID, 0 where it has none
    """

    vectors: Value
    is_read: Value
    belongs: Value
    known: Value


class ItemGraph:
    """Adds operations on items to a graph.

    Parameters
    ----------
    graph : where to add them
    layout : of its tokens
    room : whether n is what S tokens have room for, which follows from sizes alone, so that a GPU can replay what is
        added here; if not, it is read off the histories, and no more is computed than they hold
    """

    def __init__(self, graph: Graph, layout: TokenLayout, *, room: bool = False) -> None:
        self._graph = graph
        self._layout = layout
        self._room = room

    def read(self, tables: ItemTables, history: Value, history_mask: Value) -> ReadItems:
        """One vector an item.

        Parameters
        ----------
        history, history_mask : int64 [B, S], right-padded
        """
        graph = self._graph
        is_read = history_mask > 0
        positions = self._positions(history)
        begins = graph.op("Or", self._starts_item(history) & is_read, positions < 1)
        places = graph.op("CumSum", begins.cast("int64"), 1) - 1
        numbers = graph.op("Range", 0, self._items(history, places), 1).unsqueeze(1)
        # A product with zeros and ones sums the tokens of each item.
        is_part = graph.op("Not", places.unsqueeze(1).differs(numbers)) & is_read.unsqueeze(1)
        belongs = is_part.cast("float32")
        hashes = graph.op("ReduceSum", is_part.cast("int64") * self.parts(history).unsqueeze(1), np.asarray([2]))
        known = self.rows_in(tables, graph.op("Squeeze", hashes, np.asarray([2])))
        vectors = belongs @ tables.tokens.take(self._rows_of_sequences(history, positions)) + tables.own.take(known)
        tokens_of_item = graph.op("ReduceSum", belongs, np.asarray([2]), keepdims=0)
        return ReadItems(vectors, (tokens_of_item > 0.0).cast("float32"), belongs, known)

    def scoring_state(self, likeness: Value, state: Value, history: Value, read: ReadItems, last: Value) -> Value:
        """As `SemanticT5.scoring_state`.

        Parameters
        ----------
        likeness : float32 [H, M]
        state : float32 [B, M], the encoder's at the last item
        history : int64 [B, S]
        last : int64 [B, 1], place of the last item

        Returns
        -------
        float32 [B, 2 M]
        """
        graph, rows = self._graph, history
        if self._layout.expert_first:
            rows = self._rows_of_sequences(history, self._positions(history))
        is_part = graph.row_of_each(read.belongs, last)
        alike = graph.op("Squeeze", is_part @ likeness.take(rows), np.asarray([1]))
        length = graph.op("Sqrt", graph.op("ReduceSum", alike * alike, np.asarray([1])))
        is_known = (read.known > np.int32(0)).cast("float32") * read.is_read
        applies = (graph.op("ReduceSum", is_known, np.asarray([1])) < 1.0) & (length > 0.0)
        alike = alike / graph.op("Max", length, float(np.finfo(np.float32).tiny)) * ALIKE
        return graph.concat([graph.where(applies, 0.0, state), graph.where(applies, alike, 0.0)], axis=1)

    def parts(self, tokens: Value) -> Value:
        """What tokens add to a hash: int64 of the same shape."""
        return self._graph.constant(hash_parts(self._layout).numpy(), "hash_parts").take(tokens)

    def rows_in(self, tables: ItemTables, hashes: Value) -> Value:
        """As `known_ids.KnownItems.rows`, or as `known_ids.prefix_rows`."""
        graph = self._graph
        if tables.exact is None:
            found = tables.slots.take(graph.op("Mod", hashes, tables.slots.size(0)))
            return graph.op("Max", found, np.int32(tables.unknown)) if tables.unknown else found
        moves, keys = tables.exact
        moved = hashes + moves.take(graph.op("Mod", hashes, moves.size(0)))
        found = tables.slots.take(graph.op("Mod", moved, tables.slots.size(0)))
        return graph.where(keys.take(found).differs(hashes), np.int32(0), found)

    def expected(self, tables: ItemTables, state: Value, hashes: Value) -> Value:
        """Products of states with the vectors of what is written.

        Parameters
        ----------
        state : float32 [B, M]
        hashes : int64 [B, C]

        Returns
        -------
        float32 [B, C]
        """
        return self._graph.op("Squeeze", self._vectors(tables, hashes, None) @ state.unsqueeze(2), np.asarray([2]))

    def expected_best(self, tables: ItemTables, state: Value, hashes: Value, further: Value | None) -> Value:
        """As `expected`, for vectors [..., 2 M] of means and scaled variances: expected mean plus deviation.

        `further`, int32 [B, 1], is an offset of the rows, one per request; None: no offset.
        """
        graph = self._graph
        # One product gives both, as its two columns.
        of_mean, of_variance = state.unsqueeze(2), (state * state).unsqueeze(2)
        nothing = of_mean * 0.0
        upper = graph.concat([of_mean, nothing], axis=2)
        both = self._vectors(tables, hashes, further) @ graph.concat(
            [upper, graph.concat([nothing, of_variance], axis=2)], axis=1
        )
        mean, variance = (both.take(graph.constant(np.int64(column)), axis=2) for column in (0, 1))
        return mean + graph.op("Sqrt", variance)

    def _vectors(self, tables: ItemTables, hashes: Value, further: Value | None) -> Value:
        rows = self.rows_in(tables, hashes)
        return tables.own.take(rows if further is None else rows + further).cast(self._graph.real)

    def _items(self, history: Value, places: Value) -> Value:
        """int64 [], n; `places` int64 [B, S], which item of its history a token is of."""
        graph = self._graph
        if self._room:
            # A leading domain token or the rest of a truncated item stands at the beginning and counts as an item.
            return (graph.op("Squeeze", history.size(1)) - 1) // (self._layout.depth - 1) + 1
        last, _ = graph.top_k(places.reshape(-1), graph.constant(np.asarray([1])))
        return graph.op("Squeeze", last) + 1

    def _positions(self, history: Value) -> Value:
        """int64 [S], 0 to S - 1."""
        return self._graph.op("Range", 0, self._graph.op("Squeeze", history.size(1)), 1)

    def _starts_item(self, tokens: Value) -> Value:
        """As `token_tables.starts_item`."""
        layout = self._layout
        first, end = first_tokens(layout)
        is_first = (tokens >= np.int64(first)) & (tokens < np.int64(end))
        leads = tokens >= np.int64(layout.vocabulary - len(layout.domains))
        return self._graph.op("Or", is_first, leads)

    def _rows_of_sequences(self, history: Value, positions: Value) -> Value:
        """As `token_tables.rows_of_sequences`."""
        graph, layout = self._graph, self._layout
        level = graph.op("Max", history - SPECIAL_TOKENS, 0) // layout.codes
        last = graph.op("Squeeze", history.size(1)) - 1
        places = graph.op("Max", graph.op("Min", positions + expert_place(layout) - level, last), 0)
        return self._rows(history, history.take_along(places, axis=1))

    def _rows(self, tokens: Value, expert_tokens: Value) -> Value:
        """As `token_tables._rows`."""
        graph, layout = self._graph, self._layout
        if not layout.experts_per_item:
            return tokens
        expert = graph.op("Max", graph.op("Min", expert_tokens - experts_at(layout), layout.experts - 1), 0)
        is_code = (tokens >= np.int64(SPECIAL_TOKENS)) & (tokens < np.int64(experts_at(layout)))
        codes = layout.levels * layout.codes
        return graph.where(is_code, tokens + expert * codes, tokens + other_rows_at(layout))
