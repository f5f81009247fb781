"""The constraint index: building, inserting, memory; peer: a trie of dictionaries, as research code has it."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np

from benchmarks.catalogues import random_items
from benchmarks.rows import Row, medians
from service.index.trie import CodeTrie
from service.semantic_ids import IntArray


def build(tokens: IntArray) -> CodeTrie:
    """Our index over one root."""
    items = len(tokens)
    return CodeTrie.from_tokens(tokens, np.zeros(items, dtype=np.int32), np.arange(items, dtype=np.int32), 1)


def dictionary_trie(tokens: IntArray) -> dict[int, Any]:
    """The peer: nested dictionaries."""
    root: dict[int, Any] = {}
    for leaf, path in enumerate(tokens.tolist()):
        node = root
        for token in path[:-1]:
            node = node.setdefault(token, {})
        node[path[-1]] = leaf
    return root


def run(items: int = 200_000) -> list[Row]:
    """Measure at one catalogue size."""
    drawn = random_items(items + items // 10, np.random.default_rng(0))
    tokens, fresh = drawn[:items], drawn[items:].tolist()
    ours, peer = (items / taken for taken in medians(3, lambda: build(tokens), lambda: dictionary_trie(tokens)))
    arrays = build(tokens).arrays()
    size = sum(array.nbytes for array in (arrays.node_start, arrays.node_count, arrays.edge_token, arrays.edge_child))
    tracemalloc.start()
    kept = dictionary_trie(tokens)
    peer_size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del kept
    trie = build(tokens)

    def insert() -> None:
        for leaf, path in enumerate(fresh):
            trie.insert(0, path, items + leaf)
        for path in fresh:
            trie.delete(0, path)

    return [
        Row(f"build the index, {items:,} items", ours, "items/s", peer, "nested dictionaries"),
        Row(f"memory of the index, {items:,} items", size / items, "bytes", peer_size / items, "same"),
        Row(f"insert and delete one item among {items:,}", medians(3, insert)[0] / len(fresh) * 1e6, "us"),
    ]
