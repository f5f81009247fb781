"""What is expected of the best of many vectors: see `semantic_t5`, which it is a part of.

Knows nothing of networks.

Symbols: R rows, M width of a vector.
"""

from __future__ import annotations

import torch
from torch import Tensor

SPREAD = 2.0
"""Weight c of the spread in what a beginning is expected to lead to; 1.3 to 2.5 lose least of the best items."""
UNKNOWN_ITEMS = 2.0
"""How many items a beginning that came after training is taken to lead to."""


def means_and_spreads(sums: Tensor, counts: Tensor) -> Tensor:
    """Weighted means, and variances times the square of how many deviations above its mean the best is expected.

    Parameters
    ----------
    sums : float32 [R, 2 M], of weighted vectors and of their weighted squares
    counts : float32 [R, 2], sums of the weights, and numbers of vectors

    Returns
    -------
    float32 [R, 2 M]
    """
    means, squares = (sums / counts[:, :1].clamp(min=torch.finfo(counts.dtype).tiny)).chunk(2, dim=1)
    variances = (squares - means.square()).clamp(min=0)
    deviations = SPREAD * expected_maximum(counts[:, 1:])
    return torch.cat([means, deviations.square() * variances], dim=1)


def expected_maximum(counts: Tensor) -> Tensor:
    """The greatest of so many standard normal numbers, on average, by Blom's formula: 0 for one, about 2.5 for a
    hundred; float32 of the same shape, counts below one as one."""
    counts = counts.clamp(min=1)
    maximum: Tensor = torch.special.ndtri((counts - 0.375) / (counts + 0.25))
    return maximum
