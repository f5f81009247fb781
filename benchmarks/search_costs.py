"""What the search costs by catalogue size, for the constraint itself, and for filters inside it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.catalogues import one_root, random_items
from benchmarks.recommenders import exported, opened, random_histories, random_model, searching
from benchmarks.rows import CLOCKS, Row, medians
from benchmarks.unconstrained import export_unconstrained, unconstrained
from service.engine.recommender import BeamResult
from service.engine.sessions import Runtime

FLAT = 0.9
"""Least share of the smallest catalogue's speed that the largest may have."""
CONSTRAINT = 1 / 1.05
"""The constraint may take 5 % more than none."""


def run(
    items: Sequence[int] = (10_000, 1_000_000),
    beams: int = 50,
    *,
    batch: int = 1,
    repeats: int = 7,
    threads: int = 0,
    clock: str = "wall",
) -> Iterator[Row]:
    """One row for every catalogue size, one for the constraint, and those of the filters on the largest catalogue."""
    random, model, runtime = np.random.default_rng(0), random_model(), Runtime("cpu", threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recommender = opened(exported(model, folder), runtime)
        export_unconstrained(model, folder / "unconstrained.onnx")
        asked = random_histories(batch, random)
        free = unconstrained(folder / "unconstrained.onnx", runtime, asked, beams)

        drawn = [random_items(count, random) for count in items]
        tries = [one_root(tokens) for tokens in drawn]
        calls = [searching(recommender, asked, trie.arrays(), beams) for trie in tries]
        without, *taken = (1e3 * each for each in medians(repeats, free, *calls, clock=CLOCKS[clock]))
        suffix = f"{beams} beams, batch {batch}"
        for count, each in zip(items, taken, strict=True):
            measure, note = f"constrained search, {count:,} items, {suffix}", f"the same with {items[0]:,} items"
            yield Row(measure, each, "ms", taken[0], note, FLAT, curve=f"search, {suffix}", at=count)
        measure = f"constraint on, {items[-1]:,} items, {suffix}"
        yield Row(measure, taken[-1], "ms", without, "constraint off", CONSTRAINT)

        tokens, trie = drawn[-1], tries[-1]
        sides = [calls[-1]]
        for count in (20, 1_000):
            chosen = random.choice(len(tokens), count, replace=False)
            blocked = trie.blocked_edges(np.zeros(count, dtype=np.int32), tokens[chosen])
            sides.append(searching(recommender, asked, trie.arrays(), beams, blocked))
        allowed = tokens[random.choice(len(tokens), 1_000, replace=False)]

        def search_allowed() -> BeamResult:
            return searching(recommender, asked, one_root(allowed).arrays(), beams)()

        sides.append(search_allowed)
        names = ["20 items excluded", "1,000 items excluded", "1,000 items allowed, their index built for it"]
        plain, *filtered = (1e3 * each for each in medians(repeats, *sides, clock=CLOCKS[clock]))
        for what, each in zip(names, filtered, strict=True):
            yield Row(f"{what}, {items[-1]:,} items, {suffix}", each, "ms", plain, "no filter")
