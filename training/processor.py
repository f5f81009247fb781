"""How a stage uses the processor. Knows nothing of what is computed."""

from __future__ import annotations

import os

import torch


def use_processor(threads: int, bf16_products: bool = False) -> None:
    """Set the threads of torch, 0 for every core that this process may use, and how it multiplies matrices."""
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    torch.set_float32_matmul_precision("medium" if bf16_products else "highest")
