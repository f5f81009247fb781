"""ID quality of the package `semantic-id` on one domain, judged as our own kinds are.

    python -m benchmarks.peers.semantic_id_quality DATASET EMBEDDINGS DOMAIN

Needs the packages `semantic-id` and `scikit-learn`; the former asks for `k-means-constrained`, which moves a pinned
version, so give it an environment of its own and install it there with `--no-deps` (its balanced clusters are then
missing). Prints one line of JSON an algorithm, before any suffix.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from semantic_id import RQVAE, RQKMeans

from service.items import compose_texts
from training.data.dataset import Dataset
from training.encoders.vectors import read_vectors, vectors_file
from training.evaluation.id_quality import id_quality

LEVELS, CODES, SEED = 4, 256, 0


def encoders(width: int) -> dict[str, Any]:
    """The package's algorithms at our sizes; where it has defaults for the rest, those, but one k-means start."""
    return {
        "rq-kmeans": RQKMeans(n_levels=LEVELS, n_clusters=CODES, max_iter=25, n_init=1, random_state=SEED),
        "rq-vae": RQVAE(in_dim=width, num_emb_list=[CODES] * LEVELS, e_dim=32, kmeans_init=True, lr=1e-3),
    }


def main(dataset: Path, embeddings: Path, domain: str) -> None:
    """Fit every algorithm on one domain and print its figures."""
    data = Dataset.open(dataset)[domain]
    x = read_vectors(vectors_file(embeddings, domain), data.item_ids, None)
    texts = compose_texts(data.contents())
    no_experts = np.empty((len(x), 0), dtype=np.int32)
    for name, encoder in encoders(x.shape[1]).items():
        started = time.perf_counter()
        encoder.fit(x)
        codes = np.asarray(encoder.encode(x), dtype=np.int32)
        quality = id_quality(codes, no_experts, texts)
        figures = {
            "algorithm": name,
            "domain": domain,
            "items": quality.items,
            "sharing": round(quality.sharing, 5),
            "sharing_beyond_equal_content": round(quality.sharing_beyond_equal_content, 5),
            "largest_group": quality.largest_group,
            "perplexity": [round(value, 1) for value in quality.perplexity],
            "seconds": round(time.perf_counter() - started, 1),
        }
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
