"""What the IDs under a prefix add to it, and what the best of them is expected to add. A part of `semantic_t5`.

Knows nothing of networks.

Symbols: I items, R prefixes, H rows of a table, M width of a vector; depth = L + N + 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

SPREAD = 2.0
"""Weight c of the spread in a prefix's expected score; with 1.3 to 2.5 searches miss the fewest of the best items."""
UNKNOWN_ITEMS = 2.0
"""How many items are assumed under a prefix that came after training."""


def behind_prefixes(
    table: Tensor, own: Tensor, *, tokens: Tensor, prefixes: Tensor, weights: Tensor, count: int
) -> Tensor:
    """For every prefix what its items' vectors add to it, summed up by `means_and_spreads`.

    The first depth - 1 rows are for unknown prefixes, by their length: what the tokens of all items add from there on.

    Parameters
    ----------
    table : float32 [H, M]
    own : float32 [I, M], the vectors of whole IDs
    tokens : int64 [I, depth], rows of the table
    prefixes : int64 [I, depth - 1], rows of an item's prefixes, the shortest first
    weights : float32 [I], above 0
    count : R

    Returns
    -------
    float32 [R, 2 M]
    """
    left = table[tokens].sum(dim=1)
    sums = own.new_zeros(count, 2 * own.shape[1])
    counts, each = own.new_zeros(count, 2), torch.stack([weights, torch.ones_like(weights)], dim=1)
    for length, known in enumerate(prefixes.T):
        left = left - table[tokens[:, length]]
        for rows, vectors in ((known, left + own), (torch.full_like(known, length), left)):
            sums.index_add_(0, rows, torch.cat([vectors, vectors.square()], dim=1) * weights[:, None])
            counts.index_add_(0, rows, each)
    counts[: tokens.shape[1] - 1, 1] = UNKNOWN_ITEMS
    return means_and_spreads(sums, counts)


def means_and_spreads(sums: Tensor, counts: Tensor) -> Tensor:
    """Weighted means, and variances times the squared number of deviations by which the best is expected to exceed it.

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
    """Expected maximum of `counts` standard normal numbers, by Blom's formula: 0 for one, about 2.5 for a hundred.

    float32 of the same shape; counts below one are taken as one.
    """
    counts = counts.clamp(min=1)
    maximum: Tensor = torch.special.ndtri((counts - 0.375) / (counts + 0.25))
    return maximum
