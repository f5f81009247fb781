"""ID quality of the package `semantic-id`, one tokenizer a domain, scored as our own kinds are.

    python -m benchmarks.peers.semantic_id_quality DATASET EMBEDDINGS DOMAIN [DOMAIN ...]

Runs in an environment of its own: `pip install semantic-id==0.2.5 k-means-constrained polars pydantic orjson
safetensors structlog typer faiss-cpu onnxruntime pyarrow`, since what the package asks for would move versions that we
pin. Prints one line of JSON a domain and algorithm, of nearest codes, and for RQ-VAE what the package's own resolver
makes of the collisions: its Sinkhorn re-encoding, without the suffixes that it would fall back to.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from semantic_id import RQVAE, RQKMeans, SinkhornResolver

from service.items import compose_texts
from training.data.dataset import Dataset
from training.encoders.vectors import domain_vectors
from training.ids.quality import id_quality, relative_error

LEVELS, CODES, SEED = 4, 256, 0
CLUSTERS = {"n_levels": LEVELS, "n_clusters": CODES, "max_iter": 25, "n_init": 1, "random_state": SEED}


def encoders(width: int) -> dict[str, Any]:
    """The package's algorithms at our sizes; where it has defaults for the rest, those, but one k-means start."""
    return {
        "rq-kmeans": RQKMeans(**CLUSTERS),
        "rq-kmeans-balanced": RQKMeans(**CLUSTERS, implementation="constrained"),
        "rq-vae": RQVAE(in_dim=width, num_emb_list=[CODES] * LEVELS, e_dim=32, kmeans_init=True, lr=1e-3),
    }


def figures(codes: np.ndarray, vectors: np.ndarray, decoded: np.ndarray, texts: Sequence[str]) -> dict[str, Any]:
    """What the tables of `docs/` state of IDs: codes [n, L] of embeddings [n, D], and what they decode to."""
    quality = id_quality(codes, np.empty((len(codes), 0), dtype=np.int32), texts)
    return {
        "items": quality.items,
        "sharing": round(quality.sharing, 5),
        "sharing_beyond_equal_content": round(quality.sharing_beyond_equal_content, 5),
        "largest_group": quality.largest_group,
        "perplexity": [round(value, 1) for value in quality.perplexity],
        "relative_error": round(relative_error(vectors, decoded), 4),
    }


def resolved(encoder: RQVAE, codes: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Codes [n, L] after the package's resolver, which moves colliding items on the last level."""
    ids = ["-".join(map(str, row)) for row in codes]
    resolver = SinkhornResolver(fallback_suffix=False)
    moved = resolver.assign(ids, embeddings=torch.from_numpy(vectors), model=encoder.module, device="cpu")
    return np.array([list(map(int, name.split("-"))) for name in moved], dtype=np.int32)


def main(dataset: Path, embeddings: Path, domains: Sequence[str]) -> None:
    """Fit every algorithm on each domain and print its figures."""
    opened = Dataset.open(dataset)
    for domain in domains:
        data = opened[domain]
        x = domain_vectors(embeddings, data)
        texts = compose_texts(data.contents())
        for name, encoder in encoders(x.shape[1]).items():
            np.random.seed(SEED)  # noqa: NPY002, the package draws from NumPy's global generator
            torch.manual_seed(SEED)
            started = time.perf_counter()
            # Other processes would get arrays that they must not write to, which balanced clusters do not take.
            with joblib.parallel_config(backend="threading"):
                encoder.fit(x)
            codes = np.asarray(encoder.encode(x), dtype=np.int32)
            said = {"algorithm": name, "domain": domain, **figures(codes, x, encoder.decode(codes), texts)}
            if isinstance(encoder, RQVAE):
                apart = resolved(encoder, codes, x)
                after = figures(apart, x, encoder.decode(apart), texts)
                said["resolved"] = after | {"moved": round(float((apart != codes).any(axis=1).mean()), 5)}
            said["seconds"] = round(time.perf_counter() - started, 1)
            print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
