"""A search while items come and go: beside the same search alone, and beside changes to another index.

The rate that bulk changes must reach is offered first, then changes without a pause.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from benchmarks.catalogues import LAYOUT
from benchmarks.index import build, sorted_and_fresh
from benchmarks.recommenders import exported, opened, random_model
from benchmarks.rows import Row
from service.engine.recommender import Recommender
from service.engine.sessions import Runtime
from service.index.trie import CodeTrie
from service.semantic_ids import IntArray

ASKED = 50_000.0
"""Changes a second that an index must take while it is searched."""
SEARCHES = 20
"""In a row, beside one thing or another."""

Taken: TypeAlias = tuple[float, float]
"""Seconds on the clock, and of the processor, which other work on the machine does not lengthen."""


def run(items: int = 200_000, rates: Sequence[float] = (ASKED, 0)) -> Iterator[Row]:
    """A search on one core while the other changes its index, beside the same search alone, and beside a search while
    the other core changes another index of this size, which is what any busy neighbour costs.

    Parameters
    ----------
    items : of the index
    rates : changes a second, 1,000 at a time; 0 is without a pause
    """
    tokens, fresh = sorted_and_fresh(items)
    indexes, recommender = (build(tokens), build(tokens)), _recommender()
    history = np.random.default_rng(2).integers(3, 3 + LAYOUT.levels * LAYOUT.codes, (1, 100))
    mask, none = np.ones_like(history), np.full((1, 1), -1, dtype=np.int32)

    def search() -> Taken:
        started, worked = time.perf_counter(), time.thread_time()
        state = indexes[0].arrays()
        recommender.search(history, mask, state, state.roots[None, :1], none, 20)
        return time.perf_counter() - started, time.thread_time() - worked

    search()
    for rate in rates:
        alone, changing, neighbour = list[Taken](), list[Taken](), list[Taken]()
        changed = list[float]()
        for _ in range(5):
            alone += [search() for _ in range(SEARCHES)]
            with _changing(indexes[0], fresh[:1000], items, rate) as writer:
                changing += [search() for _ in range(SEARCHES)]
            changed.append(writer.rate)
            with _changing(indexes[1], fresh[:1000], items, rate):
                neighbour += [search() for _ in range(SEARCHES)]
        peers = {
            "": ("the same search alone", alone),
            ", beside others": ("beside changes to another index", neighbour),
        }
        meanwhile = f"{statistics.mean(changed):,.0f} changes/s meanwhile"
        pace, goal = (f"{rate:,.0f} changes/s", 0.95) if rate else ("changes without a pause", None)
        for suffix, (what_else, peer) in peers.items():
            note = f"{what_else}; {meanwhile}"
            for number, what in enumerate(("clock", "processor")):
                ours, theirs = ([1e3 * times[number] for times in side] for side in (changing, peer))
                name = f"search while items come and go, {items:,} items, {pace}{suffix}, {what}"
                yield Row(f"{name}, median", statistics.median(ours), "ms", statistics.median(theirs), note, goal)
                yield Row(f"{name}, 95th percentile", _late(ours), "ms", _late(theirs), note, goal)


@dataclass(slots=True)
class _Writer:
    """What a thread that changes an index has done when it ends: `rate` is changes a second."""

    rate: float = 0.0


@contextmanager
def _changing(index: CodeTrie, coming: IntArray, first: int, rate: float) -> Iterator[_Writer]:
    """Meanwhile a thread adds these items, as leaves from `first` on, and removes them again, over and over."""
    stop, writer = threading.Event(), _Writer()
    roots, leaves = np.zeros(len(coming), dtype=np.int32), np.arange(first, first + len(coming), dtype=np.int32)

    def change() -> None:
        started, done = time.perf_counter(), 0
        while not stop.is_set():
            for step in ({"added": (roots, coming, leaves)}, {"removed": (roots, coming)}):
                index.change(**step)
                done += len(coming)
                if rate:
                    stop.wait(started + done / rate - time.perf_counter())
        writer.rate = done / (time.perf_counter() - started)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield writer
    finally:
        stop.set()
        thread.join()


def _late(values: Sequence[float]) -> float:
    """The 95th percentile."""
    return statistics.quantiles(values, n=20)[-1]


def _recommender() -> Recommender:
    """A graph with random weights in TIGER's size, on one thread."""
    with tempfile.TemporaryDirectory() as folder:
        return opened(exported(random_model(), Path(folder)), Runtime("cpu", 1))
