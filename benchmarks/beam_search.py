"""One graph against transformers' `generate(prefix_allowed_tokens_fn=...)`: same weights, same lists, how much time.

Random weights in TIGER's size and random items; both sides get the same threads and are measured in turns, so that
other load on the machine hits both. Where that load is heavy, `--with clock=processor threads=1` counts the processor's
seconds instead.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.catalogues import LAYOUT, one_root, random_items
from benchmarks.limits import matrix_products
from benchmarks.recommenders import (
    HEAD,
    HISTORY,
    exported,
    multiply_adds,
    opened,
    random_histories,
    random_model,
    random_model_of_items,
    reading,
    searching,
)
from benchmarks.rows import CLOCKS, Row, steady
from service.engine.sessions import Runtime
from service.errors import ModelError
from service.ranked_lists import compare_lists
from training.export.reference import AllowedTokens, generate_lists

GOALS = {(20, 1): 15.0, (20, 32): 30.0, (50, 1): 12.0, (50, 32): 30.0}
"""Least ratio to `generate`, by beams and batch."""
SHARE_OF_GEMM = 0.6


def run(
    items: Sequence[int] = (10_000,),
    beams: int = 20,
    batches: Sequence[int] = (1, 8),
    *,
    reads: str = "tokens",
    head: float = HEAD,
    repeats: int = 3,
    threads: int = 0,
    spin: int = 20,
    clock: str = "wall",
) -> Iterator[Row]:
    """Two rows for every catalogue size and batch: beside the peer and beside the limit; fails if a list differs.

    Parameters
    ----------
    items : sizes of the catalogue
    beams : W
    batches : requests searched together
    reads : what a position of the encoder is: "tokens", or "items", whose head then guides both sides
    head : share of that head in the scores; with 1 our side has no decoder to run, and the peer cannot leave its out
    repeats : of which the median is taken
    threads : of both sides; 0 takes every core
    spin : `spin_microseconds` of our side; torch's threads, on the other, spin between two operators by themselves
    clock : which seconds are counted, a name of `CLOCKS`
    """
    threads = threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    random, runtime = np.random.default_rng(0), Runtime("cpu", threads, spin_microseconds=spin)
    products, product = matrix_products(threads)
    positions = HISTORY if reads == "tokens" else HISTORY // (LAYOUT.depth - 1)
    for count in items:
        tokens = random_items(count, random)
        model = random_model() if reads == "tokens" else random_model_of_items(tokens, head)
        with tempfile.TemporaryDirectory() as folder:
            recommender = opened(exported(model, Path(folder)), runtime)
        work = multiply_adds(model.config, beams, positions)
        index, allowed = one_root(tokens).arrays(), AllowedTokens(tokens)
        for batch in batches:
            asked = random_histories(batch, random)
            search = searching(recommender, asked, index, beams)
            generate = partial(generate_lists, model, asked.tokens, asked.mask, allowed, beams)
            found, expected = search(), generate()
            pairs = zip(expected.tokens, expected.log_prob, found.tokens, found.log_prob, strict=True)
            different = [comparison.problem for pair in pairs if (comparison := compare_lists(*pair)).problem]
            if different:
                raise ModelError(f"{len(different)} of {batch} ranked lists differ: {different[0]}")
            sides = (generate, search, products)
            theirs, ours, limit = steady(repeats, *sides, clock=CLOCKS[clock])
            name = f"{count:,} items, {beams} beams, batch {batch}" + (reading(reads, head) if reads == "items" else "")
            note = f"transformers' generate, equal lists, {threads} threads, {clock} clock; ours spins {spin} us"
            # The goals are for a search that runs what its peer runs.
            goal = GOALS.get((beams, batch)) if head < 1 else None
            note += "" if head < 1 else ", whose decoder runs although it has no say"
            yield Row(f"constrained search, {name}", 1e3 * ours, "ms", 1e3 * theirs, note, goal)
            if head == 1:
                continue  # next to nothing is left that is a matrix product
            note = "limit: rate of a large matrix product"
            goal = SHARE_OF_GEMM if batch == 32 else None
            yield Row(f"multiply-adds, {name}", work * batch / ours / 1e9, "G/s", product / limit / 1e9, note, goal)
