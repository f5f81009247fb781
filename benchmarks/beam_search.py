"""One graph against transformers' `generate(prefix_allowed_tokens_fn=...)`: same weights, same lists, how much time.

Random weights in TIGER's size and random items; both sides get the same threads and are measured in turns, so that
other load on the machine hits both.

    python -m benchmarks.beam_search                       # small: a minute
    python -m benchmarks.beam_search --items 10000 200000 --batches 1 8 32 --repeats 5
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.catalogues import LAYOUT, random_items
from benchmarks.rows import Row, medians, report
from service.bundle.manifest import RecommenderPart
from service.engine.recommender import Recommender
from service.engine.sessions import Runtime
from service.errors import ModelError
from service.index.trie import CodeTrie
from service.ranked_lists import compare_lists
from training.export.recommender import export_recommender
from training.export.reference import AllowedTokens, generate_lists
from training.networks.t5 import T5Settings, build_t5

HISTORY = 100
"""Tokens of a history: 20 items."""


def run(
    items: Sequence[int] = (10_000,),
    beams: int = 20,
    batches: Sequence[int] = (1, 8),
    repeats: int = 3,
    threads: int = 0,
) -> list[Row]:
    """One row for every catalogue size and batch; fails if a ranked list differs.

    Parameters
    ----------
    items : sizes of the catalogue
    beams : W
    batches : requests searched together
    repeats : of which the median is taken
    threads : of both sides; 0 takes every core
    """
    threads = threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    model = build_t5(LAYOUT, T5Settings()).eval()
    part = RecommenderPart(name="all", model="recommender.onnx", domains=[], domain_tokens=[], max_history=20)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / part.model
        export_recommender(model, LAYOUT, path)
        recommender = Recommender.open(path, part, LAYOUT, Runtime("cpu", threads))
    rows = []
    for count in items:
        tokens = random_items(count, random)
        leaves = np.arange(count, dtype=np.int32)
        index = CodeTrie.from_tokens(tokens, np.zeros_like(leaves), leaves, root_count=1).arrays()
        allowed = AllowedTokens(tokens)
        for batch in batches:
            history = random.integers(3, 3 + LAYOUT.levels * LAYOUT.codes, (batch, HISTORY))
            mask = np.ones_like(history)
            roots = np.zeros((batch, 1), dtype=np.int32)
            search = partial(recommender.search, history, mask, index, roots, roots - 1, beams)
            generate = partial(generate_lists, model, history, mask, allowed, beams)
            found, expected = search(), generate()
            pairs = zip(expected.tokens, expected.log_prob, found.tokens, found.log_prob, strict=True)
            different = [comparison.problem for pair in pairs if (comparison := compare_lists(*pair)).problem]
            if different:
                raise ModelError(f"{len(different)} of {batch} ranked lists differ: {different[0]}")
            theirs, ours = (1e3 * taken for taken in medians(repeats, generate, search))
            name = f"constrained search, {count:,} items, {beams} beams, batch {batch}"
            rows.append(Row(name, ours, "ms", theirs, f"transformers' generate, equal lists, {threads} threads"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000])
    parser.add_argument("--beams", type=int, default=20)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    report(run(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
