"""The constraint index and the live table: building, memory, loading, changing, and searching meanwhile.

Peers: a trie of dictionaries, as research code has it, and a static index, which takes one new item by being built
anew. Ten million items take minutes and 3 GB of memory.
"""

from __future__ import annotations

import statistics
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.catalogues import LAYOUT, TITLE, one_root, random_items, work_folder
from benchmarks.rows import CLOCKS, Clock, Row, medians
from service.catalogue.columns import ItemColumns
from service.catalogue.live_state import LiveState, shared_levels
from service.index.trie import CodeTrie
from service.semantic_ids import IntArray


def build(tokens: IntArray) -> CodeTrie:
    """Our index over one root, as the live catalogue keeps it."""
    return one_root(tokens, shared_levels(LAYOUT))


def dictionary_trie(tokens: IntArray) -> dict[int, Any]:
    """The peer: nested dictionaries."""
    root: dict[int, Any] = {}
    for leaf, path in enumerate(tokens.tolist()):
        node = root
        for token in path[:-1]:
            node = node.setdefault(token, {})
        node[path[-1]] = leaf
    return root


def sorted_and_fresh(items: int) -> tuple[IntArray, IntArray]:
    """Items in the order of their codes, int32 [items, depth], and a tenth as many others, 100,000 at most."""
    drawn = random_items(items + min(items // 10, 100_000), np.random.default_rng(0))
    tokens, fresh = drawn[:items], drawn[items:]
    return tokens[np.argsort(LAYOUT.pack(LAYOUT.values(tokens)))], fresh


def run(items: int = 1_000_000, clock: str = "wall") -> Iterator[Row]:
    """Build, change, filter, save and load at one catalogue size."""
    tokens, fresh = sorted_and_fresh(items)
    of, counted = f"{items:,} items", CLOCKS[clock]
    started = counted()
    trie = build(tokens)
    built = counted() - started
    yield Row(f"build the index from sorted codes, {of}", built, "s", goal=30, curve="build the index", at=items)
    yield Row(f"memory of the index, {of}", trie.nbytes() / items, "bytes", goal=40)
    yield from _changes(trie, fresh, built, counted)
    yield from _filters(trie, tokens, counted)
    yield Row(f"memory of the index after these changes, {of}", trie.nbytes() / items, "bytes", goal=40)
    del trie
    yield from _live(tokens, counted)


def dictionaries(items: int = 200_000, clock: str = "wall") -> list[Row]:
    """Beside the trie of dictionaries, which takes a kilobyte an item."""
    tokens, _ = sorted_and_fresh(items)
    ours, peer = (
        items / taken
        for taken in medians(3, lambda: build(tokens), lambda: dictionary_trie(tokens), clock=CLOCKS[clock])
    )
    tracemalloc.start()
    kept = dictionary_trie(tokens)
    peer_size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del kept
    size = build(tokens).nbytes()
    return [
        Row(f"build the index, {items:,} items", ours, "items/s", peer, "nested dictionaries"),
        Row(f"memory of the index, {items:,} items", size / items, "bytes", peer_size / items, "nested dictionaries"),
    ]


def _changes(trie: CodeTrie, fresh: IntArray, built: float, clock: Clock) -> list[Row]:
    """One item at a time, and many at once."""
    items = trie.leaf_count(0)
    inserted, deleted = [], []
    for leaf, path in enumerate(fresh[:500], start=items):
        inserted.append(_seconds(partial(trie.insert, 0, path, leaf), clock))
    for path in fresh[:500]:
        deleted.append(_seconds(partial(trie.delete, 0, path), clock))
    rows = []
    for what, taken in (("insert", inserted), ("delete", deleted)):
        one = statistics.median(taken)
        rows += [
            Row(f"{what} one item among {items:,}", 1e6 * one, "us", goal=1000, curve=f"{what} one item", at=items),
            Row(f"{what} one item among {items:,}, or all anew", 1e6 * one, "us", 1e6 * built, "an index built anew"),
        ]
    for size in sorted({min(1_000, len(fresh)), len(fresh)}):
        roots, part = np.zeros(size, dtype=np.int32), fresh[:size]
        leaves = np.arange(items, items + size, dtype=np.int32)
        add, remove = partial(trie.change, added=(roots, part, leaves)), partial(trie.change, removed=(roots, part))
        for what, seconds in zip(("insert", "delete"), medians(5, add, remove, clock=clock), strict=True):
            rows.append(Row(f"{what} {size:,} items at once among {items:,}", size / seconds, "items/s", goal=50_000))
    return rows


def _filters(trie: CodeTrie, tokens: IntArray, clock: Clock) -> list[Row]:
    """What an exclude list and an allow list cost before the search begins."""
    rows = []
    for count in (1_000, 10_000):
        named = tokens[np.random.default_rng(1).choice(len(tokens), count, replace=False)]
        roots, leaves = np.zeros(count, dtype=np.int32), np.arange(count, dtype=np.int32)
        blocked, allowed = medians(
            5,
            partial(trie.blocked_edges, roots, named),
            partial(CodeTrie.from_tokens, named, roots, leaves, 1),
            clock=clock,
        )
        rows += [
            Row(f"edges that cut off {count:,} of {len(tokens):,} items", 1e3 * blocked, "ms"),
            Row(f"index of {count:,} allowed items of {len(tokens):,}", 1e3 * allowed, "ms"),
        ]
    return rows


def _live(tokens: IntArray, clock: Clock) -> list[Row]:
    """The live catalogue as a whole: ten letters of item id, sixty of title."""
    items = len(tokens)
    packed = LAYOUT.pack(LAYOUT.values(tokens))

    def batches() -> Iterator[ItemColumns]:
        for first in range(0, items, 10_000):
            part = packed[first : first + 10_000]
            names = [b"B%09d" % (first + row) for row in range(len(part))]
            one = np.zeros(len(part), dtype=np.int32)
            yield ItemColumns(("all",), one, names, part, [TITLE] * len(part))

    started = clock()
    state = LiveState.read(LAYOUT, batches())
    read = clock() - started
    sizes = state.nbytes()
    with tempfile.TemporaryDirectory(dir=work_folder()) as name:
        saved = _seconds(partial(state.save, Path(name), {"of": "benchmark"}), clock)
        del state
        (loaded,) = medians(3, lambda: LiveState.load(LAYOUT, Path(name), {"of": "benchmark"}), clock=clock)
    total = sum(sizes.values()) / items
    return [
        Row(f"live catalogue of {items:,} items from columns", read, "s"),
        Row(f"save index and table of {items:,} items", saved, "s"),
        Row(f"check and map index and table of {items:,} items", loaded, "s", goal=2),
        Row(f"table of {items:,} items, columns and hash table", sizes["columns"] / items, "bytes"),
        Row(f"table of {items:,} items, ids of 10 and titles of 60 letters", sizes["texts"] / items, "bytes"),
        Row(f"index and table of {items:,} items", total, "bytes"),
    ]


def _seconds(call: Callable[[], object], clock: Clock) -> float:
    started = clock()
    call()
    return clock() - started
