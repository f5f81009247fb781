"""The package `semantic-id`, encoding on demand: `python semantic_id_worker.py VECTORS.npy LEVELS CODES`.

Learns residual k-means from the vectors, float32 [n, D], prints a line when it is ready, and then, for each line it
reads, encodes all of them and prints a line.
"""

from __future__ import annotations

import sys

import numpy as np
from semantic_id import RQKMeans


def main(path: str, levels: int, codes: int) -> None:
    """Learn, then encode as often as asked."""
    vectors = np.load(path)
    encoder = RQKMeans(n_levels=levels, n_clusters=codes, max_iter=5, n_init=1, random_state=0)
    encoder.fit(vectors)
    print("ready", flush=True)
    for _ in sys.stdin:
        encoder.encode(vectors)
        print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
