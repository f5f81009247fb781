"""Searches as a GPU serves them: laid out for it, replayed, in float32 and half precision; times, and an open loop.

    python -m benchmarks --full serve-gpu
    python -m benchmarks.gpu_served                                          # the same as lines of JSON, at once
    python -m benchmarks.gpu_served provider=cpu items=3000 'batches=[1, 4]' 'rates=[20]' known=500     # a rehearsal

Random weights in TIGER's size, of a network that reads tokens, of one that reads and scores items, and of one whose
head over items scores alone; random items. The engine alone: HTTP is not part of it. A part that fails says so and
takes none of the others with it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import T5ForConditionalGeneration

from benchmarks.catalogues import LAYOUT, one_root, random_items
from benchmarks.gpu_setting import Limits, guarded, has_provider, say_rows
from benchmarks.recommenders import (
    PART,
    Histories,
    random_histories,
    random_model,
    random_model_of_items,
    searching,
)
from benchmarks.rows import Row
from service.catalogue.live_state import shared_levels
from service.engine.fixed_searches import STEPS
from service.engine.recommender import BeamResult, Recommender
from service.engine.resident import ResidentIndexes
from service.engine.sessions import Provider, Runtime
from service.index.trie import CodeTrie
from service.ranked_lists import compare_best
from training.graphs.recommender import export_recommender

KEPT = 0.99
"""Least share of the ten best items of float32, laid out for a processor and searched with open sizes."""
FASTER = 1.7
"""Half precision is worth its roundings from here on."""
PERCENTILE, RATE = 10.0, 5_000
"""The goal: milliseconds at the 99th percentile, at so many requests a second."""
MOST = 64
"""Requests of the open loop that are searched together at most."""
POOL = 4_096
MET_OFTEN = 4


@dataclass(frozen=True)
class Load:
    """Of the open loop: what is asked, requests a second, rising, and seconds at each rate."""

    pool: Histories
    rates: Sequence[int]
    seconds: float


@dataclass(frozen=True)
class Served:
    """What all parts share."""

    runtime: Runtime
    trie: CodeTrie
    resident: ResidentIndexes
    folder: Path
    beams: int
    limits: Limits

    def opened(self, model: T5ForConditionalGeneration, *, half: bool, for_gpu: bool) -> Recommender:
        """A network's graph, with sessions of fixed sizes where it is laid out for a GPU."""
        path = Path(tempfile.mkdtemp(dir=self.folder)) / PART.model
        export_recommender(model, LAYOUT, path, half=half, for_gpu=for_gpu)
        return Recommender.open(path, PART, LAYOUT, self.runtime, self.resident, captured=for_gpu)

    def searching(self, recommender: Recommender, asked: Histories) -> Callable[[], BeamResult]:
        """A call that has been captured where that can be."""
        search = searching(recommender, asked, self.trie.arrays(), self.beams)
        for _ in range(MET_OFTEN):
            search()
        if recommender._fixed is not None:
            recommender._fixed.settle()
        search()
        return search


def run(
    provider: Provider = "cuda",
    items: int = 10_000_000,
    beams: int = 50,
    batches: Sequence[int] = (1, 8, 16, 32, 64),
    rates: Sequence[int] = (2_000, 3_000, 4_000, 5_000, 6_000, 8_000),
    *,
    known: int = 100_000,
    repeats: int = 60,
    seconds: float = 0.3,
    loop_seconds: float = 3.0,
    threads: int = 0,
) -> Iterator[Row]:
    """All rows; none, with a word about it, where ONNX Runtime has no such provider.

    Parameters
    ----------
    provider : where it runs
    items : in the catalogue
    beams : W
    batches : requests searched together
    rates : requests a second of the open loop, rising; it ends at the first whose percentile is a tenth of its seconds
    known : items that the networks that read items have vectors of
    repeats, seconds : of a time, whichever is reached first
    loop_seconds : at each rate
    threads : of an operator on the CPU
    """
    if not has_provider(provider, "serve-gpu"):
        return
    random, runtime = np.random.default_rng(0), Runtime(provider, threads)
    with tempfile.TemporaryDirectory() as name:
        trie = one_root(random_items(items, random), shared_levels(LAYOUT))
        served = Served(runtime, trie, ResidentIndexes(runtime), Path(name), beams, Limits(repeats, seconds))
        ids, load = random_items(known, random), Load(random_histories(POOL, random), rates, loop_seconds)
        networks: dict[str, Callable[[], T5ForConditionalGeneration]] = {
            "reading tokens": random_model,
            "reading items, the head alone": lambda: random_model_of_items(ids, 1.0),
            "reading items": lambda: random_model_of_items(ids),
        }
        setting = f"{provider}, {items:,} items, {beams} beams"
        for reads, make in networks.items():
            yield from guarded(reads, _of(served, setting, reads, make, batches))
        for reads in list(networks)[:2]:
            for half in (True, False):
                name_of = f"{setting}, {reads}, {_precision(half)}"
                yield from guarded(f"open loop, {name_of}", _open_loop(served, networks[reads], load, name_of, half))


def _of(
    served: Served, setting: str, reads: str, make: Callable[[], T5ForConditionalGeneration], batches: Sequence[int]
) -> Iterator[Row]:
    """Milliseconds of one network in every precision and layout, and how many of the ten best items stay."""
    model = make()
    plain = served.opened(model, half=False, for_gpu=False)
    sides = {half: served.opened(model, half=half, for_gpu=True) for half in (False, True)}
    for batch in batches:
        asked = random_histories(batch, np.random.default_rng(batch))
        name = f"{setting}, batch {batch}, {reads}"
        before = served.searching(plain, asked)
        exact, peer = before(), served.limits.median(before)
        note = open_sizes = "open sizes, laid out for a processor"
        for half, side in sides.items():
            search = served.searching(side, asked)
            answered = _answered(side)
            taken = served.limits.milliseconds(search)
            refused = "; refused, so that these are open too" if _answered(side) == answered else ""
            of, goal = f"{name}, {_precision(half)}", FASTER if half else None
            median = float(np.median(taken))
            yield Row(f"replayed, {of}", median, "ms", peer, f"{note}{refused}; {len(taken)} repeats", goal)
            yield Row(f"99th percentile replayed, {of}", float(np.percentile(taken, 99)), "ms")
            yield Row(f"requests replayed, {of}", 1e3 * batch / median, "requests/s")
            yield Row(f"ten best kept, {of}", _kept(exact, search()), "share", note=open_sizes, goal=KEPT)
            peer, note = median, "float32, replayed"


def _open_loop(
    served: Served, make: Callable[[], T5ForConditionalGeneration], load: Load, name: str, half: bool
) -> Iterator[Row]:
    """Latency of requests that come at random: one thread searches for what waits, `MOST` at most."""
    recommender = served.opened(make(), half=half, for_gpu=True)
    pool, seconds = load.pool, load.seconds

    def search(rows: NDArray[np.int64]) -> None:
        searching(recommender, Histories(pool.tokens[rows], pool.mask[rows]), served.trie.arrays(), served.beams)()

    for size in (step for step in STEPS if step <= MOST):
        served.searching(recommender, Histories(pool.tokens[:size], pool.mask[:size]))
    for rate in load.rates:
        random, count = np.random.default_rng(rate), int(rate * seconds)
        arrivals = np.cumsum(random.exponential(1 / rate, count))
        latency, batches = _answer_all(search, arrivals, random.integers(0, POOL, count))
        # The first tenth is the start.
        middle, most = (float(each) for each in np.percentile(1e3 * latency[count // 10 :], (50, 99)))
        answered = count / (arrivals[-1] + latency[-1])
        note = f"median {middle:.2f} ms, {answered:,.0f} answers/s, {np.mean(batches):.1f} together; {seconds:g} s"
        yield Row(
            f"open loop at {rate:,}/s, 99th percentile, {name}",
            most,
            "ms",
            note=note,
            goal=PERCENTILE if rate == RATE else None,
            curve=name,
            at=rate,
        )
        if most > 1e3 * seconds / 10:
            return


def _answer_all(
    search: Callable[[NDArray[np.int64]], None], arrivals: NDArray[np.float64], which: NDArray[np.int64]
) -> tuple[NDArray[np.float64], list[int]]:
    """Seconds from each arrival to its answer, and how many were searched together."""
    latency, batches, first = np.zeros(len(arrivals)), list[int](), 0
    started = time.perf_counter()
    while first < len(arrivals):
        now = time.perf_counter() - started
        last = min(int(np.searchsorted(arrivals, now, side="right")), first + MOST)
        if last == first:
            # Sleeping until the very moment would sleep past it.
            time.sleep(max(0.0, arrivals[first] - now - 2e-4))
            continue
        search(which[first:last])
        latency[first:last] = time.perf_counter() - started - arrivals[first:last]
        batches.append(last - first)
        first = last
    return latency, batches


def _kept(exact: BeamResult, found: BeamResult) -> float:
    lists = zip(exact.tokens, exact.log_prob, found.tokens, found.log_prob, strict=True)
    compared = [compare_best(*each) for each in lists]
    return sum(each.kept for each in compared) / sum(each.best for each in compared)


def _answered(recommender: Recommender) -> int:
    return 0 if recommender._fixed is None else recommender._fixed.answered


def _precision(half: bool) -> str:
    return "float16" if half else "float32"


if __name__ == "__main__":
    say_rows(run)
