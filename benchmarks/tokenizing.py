"""Embedding to semantic ID; peers: faiss's residual quantiser of the same shape, and the machine's own GEMM rate."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np

from benchmarks.limits import gemm_rate
from benchmarks.rows import Row, medians
from service.bundle.files import Bundle
from service.engine.engine import Engine

BATCH = 4096


def parameters_touched(bundle: Bundle) -> int:
    """Multiply-adds an item needs: the encoder's weights once, and the distance to every code of N experts.

    The encoder's weights are the graph file's numbers less the codebooks.
    """
    layout = bundle.manifest.layout
    codes = layout.levels * layout.codes * bundle.manifest.item_tokenizer.latent_width * layout.experts_per_item
    all_codes = layout.levels * layout.codes * bundle.manifest.item_tokenizer.latent_width * layout.experts
    file = bundle.path(bundle.manifest.item_tokenizer.model).stat().st_size // 4
    return max(file - all_codes, 0) + codes


def run(folder: Path = Path("models/sample")) -> list[Row]:
    """Measure on random unit vectors, as wide as the bundle's."""
    bundle = Bundle.open(folder)
    engine = Engine.open(bundle, "cpu", 0)
    part, layout = bundle.manifest.item_tokenizer, bundle.manifest.layout
    vectors = np.random.default_rng(0).standard_normal((BATCH, part.embedding_width), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    quantizer = faiss.ResidualQuantizer(part.embedding_width, layout.levels, int(np.log2(layout.codes)))
    quantizer.train_type = faiss.ResidualQuantizer.Train_default
    quantizer.max_beam_size = 1
    quantizer.train(vectors)
    sides = (lambda: engine.item_tokenizer.tokenize(vectors), lambda: quantizer.compute_codes(vectors))
    ours, peer = (BATCH / taken for taken in medians(5, *sides))
    limit = gemm_rate() / parameters_touched(bundle)
    return [
        Row(f"embedding to ID, batch {BATCH}", ours, "items/s", peer, "faiss ResidualQuantizer, beam 1, raw vectors"),
        Row(f"embedding to ID, batch {BATCH}", ours, "items/s", limit, "limit: GEMM rate / multiply-adds an item"),
    ]
