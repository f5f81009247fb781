"""What counts of semantic IDs say: which are equal, how many items share one, how evenly codes are used.

Knows nothing of where the IDs come from.

Symbols: n items, L levels, T codes a level.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.catalogue.census import entropy


def groups_of(rows: NDArray[np.integer]) -> NDArray[np.int64]:
    """Number the distinct rows of int [n, m]: int64 [n], from 0, equal for equal rows."""
    _, groups = np.unique(rows, axis=0, return_inverse=True)
    numbers: NDArray[np.int64] = groups.reshape(-1).astype(np.int64)
    return numbers


def sharing(groups: NDArray[np.int64]) -> float:
    """Share of items whose group, int64 [n], another item has too; 0 where there are no items."""
    return float((np.bincount(groups)[groups] > 1).mean()) if len(groups) else 0.0


def perplexity(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """exp of the entropy of code use: how many codes, evenly used, would be as uncertain.

    Over the last axis of counts int64 [..., T]; 0 where nothing was used.
    """
    return np.where(counts.sum(axis=-1) > 0, np.exp(entropy(counts)), 0.0)


def perplexities(codes: NDArray[np.integer]) -> list[float]:
    """Perplexity of each level of codes int [n, L], the first level first."""
    return [float(perplexity(np.bincount(column))) for column in codes.T]
