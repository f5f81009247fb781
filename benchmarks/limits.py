"""What the machine itself allows. Knows nothing of what is held against it."""

from __future__ import annotations

import time

import numpy as np

from benchmarks.rows import Clock, medians


def gemm_rate(size: int = 1024, clock: Clock = time.perf_counter) -> float:
    """Multiply-adds a second of a large float32 matrix product on this machine."""
    left, right = np.random.default_rng(0).standard_normal((2, size, size), dtype=np.float32)
    return size**3 / medians(5, lambda: left @ right, clock=clock)[0]
