"""The constraint index: building, inserting, memory; peer: a trie of dictionaries, as research code has it."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np

from benchmarks.rows import Row, seconds
from service.index.trie import CodeTrie
from service.semantic_ids import IntArray, TokenLayout

LAYOUT = TokenLayout(levels=4, codes=256, experts=10, experts_per_item=1, suffixes=1024)


def random_tokens(items: int, seed: int = 0) -> IntArray:
    """Distinct random semantic IDs as tokens: int32 [at most items, depth]."""
    generator = np.random.default_rng(seed)
    values = np.stack([generator.integers(0, size, items) for size in LAYOUT.position_sizes[:-1]], axis=1)
    values = np.unique(values, axis=0)
    return LAYOUT.tokens(np.concatenate([values, np.zeros((len(values), 1))], axis=1).astype(np.int32))


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
    tokens = random_tokens(items)
    ours = len(tokens) / seconds(lambda: build(tokens), 3)
    peer = len(tokens) / seconds(lambda: dictionary_trie(tokens), 1)
    arrays = build(tokens).arrays()
    size = sum(array.nbytes for array in (arrays.node_start, arrays.node_count, arrays.edge_token, arrays.edge_child))
    tracemalloc.start()
    kept = dictionary_trie(tokens)
    peer_size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del kept
    fresh = random_tokens(items + items // 10, seed=1)[: items // 10]
    trie = build(tokens)
    fresh = np.asarray([path for path in fresh.tolist() if trie.find(0, path) < 0], dtype=np.int32)
    paths = fresh.tolist()

    def insert() -> None:
        for leaf, path in enumerate(paths):
            trie.insert(0, path, items + leaf)
        for path in paths:
            trie.delete(0, path)

    return [
        Row(f"build the index, {items:,} items", ours, "items/s", peer, "nested dictionaries"),
        Row(f"memory of the index, {items:,} items", size / len(tokens), "bytes", peer_size / len(tokens), "same"),
        Row(f"insert and delete one item among {items:,}", seconds(insert, 3) / len(paths) * 1e6, "us"),
    ]
