"""Statistics of semantic IDs: which are equal, how many items share one, how evenly codes are used.

Knows nothing of where the IDs come from.

Symbols: n items, L levels, T codes per level.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.catalogue.census import entropy


def groups_of(rows: NDArray[np.integer]) -> NDArray[np.int64]:
    """Group equal rows of int [n, m]: the number of each row's group, from 0, as int64 [n]."""
    _, groups = np.unique(rows, axis=0, return_inverse=True)
    numbers: NDArray[np.int64] = groups.reshape(-1).astype(np.int64)
    return numbers


def sharing(groups: NDArray[np.int64]) -> float:
    """Share of items whose group (groups int64 [n]) holds another item too; 0 if there are no items."""
    return float((np.bincount(groups)[groups] > 1).mean()) if len(groups) else 0.0


def perplexity(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """exp of the entropy of code use: the effective number of codes.

    Over the last axis of counts int64 [..., T]; 0 where no code was used.
    """
    return np.where(counts.sum(axis=-1) > 0, np.exp(entropy(counts)), 0.0)


def perplexities(codes: NDArray[np.integer]) -> list[float]:
    """Perplexity of each level of codes int [n, L], in order of levels."""
    return [float(perplexity(np.bincount(column))) for column in codes.T]
