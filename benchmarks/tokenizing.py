"""Embedding to semantic ID. Peers: faiss's residual quantiser and the package `semantic-id`, both of the same shape and
on the raw vectors, without an encoder and a router; and the machine's own rate of matrix products.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.limits import matrix_products
from benchmarks.peers import program_of_peers
from benchmarks.rows import Row, steady
from service.bundle.files import Bundle
from service.bundle.manifest import Layout
from service.engine.engine import Engine

BATCH = 4096
RATE = 50_000
WORKER = Path(__file__).parent / "peers" / "semantic_id_worker.py"


def multiply_adds(bundle: Bundle) -> int:
    """What an item needs: the encoder's weights once, and the distance to every code of N experts.

    The encoder's weights are the graph file's numbers less the codebooks.
    """
    layout, part = bundle.manifest.layout, bundle.manifest.item_tokenizer
    one_expert = layout.levels * layout.codes * part.latent_width
    numbers = bundle.path(part.model).stat().st_size // 4
    return max(numbers - one_expert * layout.experts, 0) + one_expert * max(layout.experts_per_item, 1)


@contextmanager
def semantic_id(vectors: NDArray[np.float32], layout: Layout) -> Iterator[Callable[[], object]]:
    """A call that has the package encode the vectors, float32 [n, D], in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.npy"
        np.save(path, vectors)
        command = [str(program_of_peers("python")), str(WORKER), str(path), str(layout.levels), str(layout.codes)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        assert process.stdin is not None
        assert process.stdout is not None
        asked, said = process.stdin, process.stdout

        def encode() -> None:
            asked.write("\n")
            if not said.readline():
                raise RuntimeError("the worker of semantic-id has ended")

        try:
            if not said.readline():
                raise RuntimeError("the worker of semantic-id did not start")
            yield encode
        finally:
            process.kill()
            process.wait()


def run(bundle: Path = Path("models/sample"), repeats: int = 5) -> Iterator[Row]:
    """Measure on random unit vectors, as wide as the bundle's."""
    opened = Bundle.open(bundle)
    tokenizer, part, layout = Engine.open(opened).item_tokenizer, opened.manifest.item_tokenizer, opened.manifest.layout
    vectors = np.random.default_rng(0).standard_normal((BATCH, part.embedding_width), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    quantizer = faiss.ResidualQuantizer(part.embedding_width, layout.levels, int(np.log2(layout.codes)))
    quantizer.train_type = faiss.ResidualQuantizer.Train_default
    quantizer.max_beam_size = 1
    quantizer.train(vectors)
    with semantic_id(vectors, layout) as package:
        products, product = matrix_products()
        sides = (lambda: tokenizer.tokenize(vectors), lambda: quantizer.compute_codes(vectors), package, products)
        *taken, limit = steady(repeats, *sides)
    ours, faiss_rate, package_rate = (BATCH / seconds for seconds in taken)
    name = f"embedding to ID, {bundle}, batch {BATCH}"
    yield Row(name, ours, "items/s", goal=RATE)
    yield Row(f"{name}, beside faiss", ours, "items/s", faiss_rate, "ResidualQuantizer, beam 1, raw vectors")
    yield Row(f"{name}, beside semantic-id", ours, "items/s", package_rate, "RQKMeans, raw vectors")
    possible = product / limit / multiply_adds(opened)
    yield Row(f"{name}, limit", ours, "items/s", possible, "rate of a large matrix product / multiply-adds an item")
