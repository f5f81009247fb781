"""What a change of the index costs where searches read a copy of it on a device.

Symbols: n items.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.catalogues import random_items
from benchmarks.recommenders import HISTORY, random_histories
from benchmarks.rows import Row
from service.engine.recommender import BeamResult, Recommender
from service.engine.resident import ResidentIndexes
from service.index.trie import CodeTrie
from service.semantic_ids import IntArray

BULKS = 3


@dataclass(frozen=True)
class Changing:
    """An index that is changed, who searches it, and how often a measurement is repeated."""

    trie: CodeTrie
    recommender: Recommender
    resident: ResidentIndexes
    beams: int
    repeats: int

    def rows(self, provider: str, bulk: int) -> Iterator[Row]:
        """One item, until a search has found it; one item, until it could; many items."""
        name = f"{provider}, index of {self.trie.leaf_count(0):,} items"
        random = np.random.default_rng(1)
        visible, gone, plain = self._seen(random)
        yield Row(f"one item in, a search that finds it included, {name}", visible, "ms", plain, "the search alone")
        yield Row(f"one item out, a search without it included, {name}", gone, "ms", plain, "the search alone")
        inserted, patched = self._patched(self._new(self.repeats, random), 1)
        yield Row(f"one item patched in, {name}", patched, "ms", note=f"after {inserted:.3f} ms for the index itself")
        inserted, patched = self._patched(self._new(BULKS * bulk, random), bulk)
        note = f"{patched:.1f} ms, after {inserted:.1f} ms for the index itself"
        yield Row(f"{bulk:,} items patched in at once, {name}", 1e3 * bulk / patched, "items/s", note=note)

    def _search(self, root: int) -> BeamResult:
        arrays, asked = self.trie.arrays(), random_histories(1, np.random.default_rng(2))
        roots, blocked = arrays.roots[[[root]]], np.zeros((1, 0), dtype=np.int32)
        return self.recommender.search(asked.tokens[:, :HISTORY], asked.mask, arrays, roots, blocked, self.beams)

    def _seen(self, random: np.random.Generator) -> tuple[float, float, float]:
        """Median milliseconds until an item is found and until it is no more, and of a search that nothing precedes.

        The item is alone in a domain of its own, so that a search finds it if it is there.
        """
        root, item = self.trie.add_root(), random_items(100, random)[0]
        for _ in range(3):
            self._search(root)
        taken: list[list[float]] = []
        for _ in range(self.repeats):
            at = [time.perf_counter()]
            self.trie.insert(root, item, 7)
            found = self._search(root)
            at.append(time.perf_counter())
            self.trie.delete(root, item)
            after = self._search(root)
            at.append(time.perf_counter())
            self._search(root)
            at.append(time.perf_counter())
            if found.tokens[0, 0].tolist() != item.tolist() or np.isfinite(found.log_prob[0, 1:]).any():
                raise AssertionError(f"a search that follows an item's insertion found {found.tokens[0, :2].tolist()}")
            if np.isfinite(after.log_prob).any():
                raise AssertionError(f"a search that follows an item's deletion found {after.tokens[0, :2].tolist()}")
            taken.append(np.diff(at).tolist())
        visible, gone, plain = (1e3 * np.median(np.asarray(taken), axis=0)).tolist()
        return visible, gone, plain

    def _new(self, count: int, random: np.random.Generator) -> IntArray:
        """Items that the index does not hold: int32 [count, depth]."""
        drawn = random_items(count + count // 4 + 16, random)
        there = self.trie.state.find(np.zeros(len(drawn), dtype=np.int32), drawn) >= 0
        return drawn[~there][:count]

    def _patched(self, items: IntArray, size: int) -> tuple[float, float]:
        """Median milliseconds of changes of so many items each, of the index itself and of the copy."""
        self.resident.feeds(self.trie.arrays())
        taken = []
        for number, part in enumerate(np.split(items, len(items) // size)):
            leaves = np.arange(len(part)) + 20_000_000 + number * size
            started = time.perf_counter()
            self.trie.change(added=(np.zeros(len(part), dtype=np.int32), part, leaves))
            changed = time.perf_counter()
            self.resident.feeds(self.trie.arrays())
            taken.append((changed - started, time.perf_counter() - changed))
        inserted, patched = (1e3 * np.median(np.asarray(taken), axis=0)).tolist()
        return inserted, patched
