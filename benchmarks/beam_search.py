"""One graph against transformers' `generate(prefix_allowed_tokens_fn=...)`: same weights, same lists, how much time.

Random weights in TIGER's size and random items; both sides get the same threads and are measured in turns, so that
other load on the machine hits both. Prints a table, and one JSON line a row for other programs.

    python benchmarks/beam_search.py                       # small: a minute
    python benchmarks/beam_search.py --items 10000 200000 --batches 1 8 32 --repeats 5
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from service.bundle.manifest import RecommenderPart
from service.engine.recommender import Recommender
from service.engine.sessions import Runtime
from service.index.trie import CodeTrie
from service.ranked_lists import compare_lists
from service.semantic_ids import TokenLayout
from training.export.recommender import export_recommender
from training.export.reference import AllowedTokens, generate_lists
from training.networks.t5 import T5Settings, build_t5

LAYOUT = TokenLayout(levels=4, codes=256, experts=10, experts_per_item=1, suffixes=64)
HISTORY = 100
"""Tokens of a history: 20 items."""


@dataclass(frozen=True)
class Row:
    """Medians in milliseconds for one batch; `equal_lists` of `batch` lists are the same."""

    items: int
    beams: int
    batch: int
    generate_ms: float
    graph_ms: float
    ratio: float
    equal_lists: int
    threads: int


def random_items(count: int, random: np.random.Generator) -> np.ndarray:
    """Distinct random semantic IDs without suffixes: int32 [count, 6] tokens."""
    widths = [*LAYOUT.position_sizes[:-1], 1]
    drawn = np.stack([random.integers(0, width, count + count // 50) for width in widths], axis=1)
    distinct = np.unique(drawn.astype(np.int32), axis=0)
    return LAYOUT.tokens(distinct[random.permutation(len(distinct))[:count]])


def measure(repeats: int, *sides: Callable[[], object]) -> list[float]:
    """Median milliseconds of each side, called in turns after one call to warm up."""
    taken: list[list[float]] = [[] for _ in sides]
    for repeat in range(repeats + 1):
        for side, times in zip(sides, taken, strict=True):
            started = time.perf_counter()
            side()
            if repeat:
                times.append(1e3 * (time.perf_counter() - started))
    return [statistics.median(times) for times in taken]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000])
    parser.add_argument("--beams", type=int, default=20)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    model = build_t5(LAYOUT, T5Settings()).eval()
    part = RecommenderPart(name="all", model="recommender.onnx", domains=[], domain_tokens=[], max_history=20)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / part.model
        export_recommender(model, LAYOUT, path)
        recommender = Recommender.open(path, part, LAYOUT, Runtime("cpu", options.threads))
    print(f"{'items':>9} {'beams':>5} {'batch':>5} {'generate ms':>12} {'graph ms':>9} {'ratio':>6} equal lists")
    for count in options.items:
        tokens = random_items(count, random)
        leaves = np.arange(count, dtype=np.int32)
        index = CodeTrie.from_tokens(tokens, np.zeros_like(leaves), leaves, root_count=1).arrays()
        allowed = AllowedTokens(tokens)
        for batch in options.batches:
            history = random.integers(3, 3 + LAYOUT.levels * LAYOUT.codes, (batch, HISTORY))
            mask = np.ones_like(history)
            roots = np.zeros((batch, 1), dtype=np.int32)
            found = recommender.search(history, mask, index, roots, roots - 1, options.beams)
            expected = generate_lists(model, history, mask, allowed, options.beams)
            pairs = zip(expected.tokens, expected.log_prob, found.tokens, found.log_prob, strict=True)
            equal = sum(compare_lists(*pair).problem is None for pair in pairs)
            generate_ms, graph_ms = measure(
                options.repeats,
                lambda: generate_lists(model, history, mask, allowed, options.beams),  # noqa: B023  called at once
                lambda: recommender.search(history, mask, index, roots, roots - 1, options.beams),  # noqa: B023
            )
            row = Row(
                items=count,
                beams=options.beams,
                batch=batch,
                generate_ms=round(generate_ms, 1),
                graph_ms=round(graph_ms, 1),
                ratio=round(generate_ms / graph_ms, 1),
                equal_lists=equal,
                threads=options.threads,
            )
            rows.append(row)
            print(
                f"{row.items:>9} {row.beams:>5} {row.batch:>5} {row.generate_ms:>12.1f} {row.graph_ms:>9.1f} "
                f"{row.ratio:>6.1f} {row.equal_lists} of {row.batch}"
            )
    for row in rows:
        print(json.dumps(asdict(row)))


if __name__ == "__main__":
    main()
