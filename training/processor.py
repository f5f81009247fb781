"""Settings of torch for CPU threads and matrix products. Knows nothing of what is computed."""

from __future__ import annotations

import os

import torch


def use_processor(threads: int, bf16_products: bool = False) -> None:
    """Set the number of torch's threads (0: all cores that this process may use) and the precision of products."""
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    torch.set_float32_matmul_precision("medium" if bf16_products else "highest")
