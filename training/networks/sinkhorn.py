"""Uniform semantic mapping (LC-Rec, Zheng et al. 2024): codes that are near to the rows of a batch and evenly used.

Symbols: B rows, T codes. Knows nothing of codebooks.
"""

from __future__ import annotations

import torch
from torch import Tensor


def balanced_codes(distances: Tensor, epsilon: float, iterations: int) -> Tensor:
    """int64 [B]: codes of the transport plan of least cost in which every code gets an even share of the rows.

    Sinkhorn-Knopp on the entropic optimal transport problem, in the log domain and in float64: with a small epsilon the
    kernel itself would underflow.

    Parameters
    ----------
    distances : [B, T], the costs; brought to the range -1 to 1 first, so that epsilon means the same for all data
    epsilon : weight of the entropy; the smaller, the nearer to an assignment
    iterations : of Sinkhorn-Knopp
    """
    with torch.no_grad():
        low, high = distances.double().min(), distances.double().max()
        scaled = (distances.double() - (low + high) / 2) / ((high - low) / 2 + 1e-12)
        plan = -scaled / epsilon
        for _ in range(iterations):
            plan = plan - plan.logsumexp(dim=0, keepdim=True)  # columns: equal shares of the codes
            plan = plan - plan.logsumexp(dim=1, keepdim=True)  # rows: each assigned once
        return plan.argmax(dim=1)
