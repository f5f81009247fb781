"""The search with int8 weights and activations: how much faster, and how many results stay. It is not what we serve.

Speed on random weights in TIGER's size; the share of results on the sample bundle's trained recommender, over histories
of items that are neighbours by their IDs.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.catalogues import one_root, random_items
from benchmarks.quantizing import quantized
from benchmarks.recommenders import exported, opened, random_histories, random_model, searching
from benchmarks.rows import CLOCKS, Row, medians
from benchmarks.serving import catalogue
from service.bundle.files import Bundle
from service.engine.history_tokens import history_tokens
from service.engine.recommender import Recommender
from service.engine.sessions import Runtime

FASTER, UNCHANGED = 1.7, 0.99
TOP = 10


def unchanged(folder: Path, copies: Path, histories: int, beams: int) -> float:
    """Share of the ten best items of the sample's recommender that int8 finds too."""
    bundle, random = Bundle.open(folder), np.random.default_rng(0)
    part = bundle.manifest.recommenders[0]
    layout = bundle.manifest.token_layout(part)
    copy = copies / "sample.onnx"
    copy.write_bytes(bundle.path(part.model).read_bytes())
    sides = [Recommender.open(path, part, layout, Runtime("cpu", 1)) for path in (copy, quantized(copy))]
    _, values = catalogue(folder, part.domains[0])
    index = one_root(layout.tokens(values)).arrays()
    lengths = random.integers(2, part.max_history + 1, histories)
    read = [values[random.integers(0, len(values) - 200) + random.choice(200, length)] for length in lengths]
    asked = history_tokens(layout, np.concatenate(read), np.cumsum([0, *lengths]), part.max_history)
    roots = np.zeros((histories, 1), dtype=np.int32)
    exact, rounded = (
        each.search(asked.tokens, asked.mask, index, roots, roots[:, :0], beams).leaf[:, :TOP] for each in sides
    )
    return float(np.mean([np.isin(ours, theirs).mean() for ours, theirs in zip(rounded, exact, strict=True)]))


def run(
    bundle: Path = Path("models/sample"), batch: int = 8, repeats: int = 5, threads: int = 0, clock: str = "wall"
) -> list[Row]:
    """Speed and share."""
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        path, runtime = exported(random_model(), Path(name)), Runtime("cpu", threads)
        index, asked = one_root(random_items(10_000, random)).arrays(), random_histories(batch, random)
        sides = (searching(opened(each, runtime), asked, index, 20) for each in (quantized(path), path))
        ours, exact = (1e3 * taken for taken in medians(repeats, *sides, clock=CLOCKS[clock]))
        share = unchanged(bundle, Path(name), histories=64, beams=50)
    return [
        Row(f"search in int8, 10,000 items, 20 beams, batch {batch}", ours, "ms", exact, "float32", FASTER),
        Row(f"search in int8: top {TOP} items kept, sample bundle", share, "share", note="float32", goal=UNCHANGED),
    ]
