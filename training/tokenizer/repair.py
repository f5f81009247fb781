"""Moves items that share an ID to free codes of the last level: as few items as possible, at the least total distance.

With nearest codes, some items of different content share an ID. Below each prefix (experts and all codes but the last)
with such a collision, one content keeps the code and every other moves to a code that is unused there, at the least sum
of distances. Items of equal content on one ID are treated as one: they stay together, and the suffix distinguishes
them. A new item is never moved: it gets its nearest codes, and a suffix if needed. Knows nothing of any specific kind
of tokenizer.

Symbols: n items, L levels, N experts chosen, T codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from service.engine.tokenized_items import TokenizedItems
from service.semantic_ids import IntArray
from training.ids.counts import groups_of
from training.ids.quality import first_experts
from training.ids.table import contents_of
from training.networks.tokenized import TokenizerNetwork

IntVector = NDArray[np.int64]


class LastLevelDistances(Protocol):
    """Squared distances float64 [m, T] from the residuals at the last level to its codes, for rows int64 [m]."""

    def __call__(self, rows: IntVector) -> NDArray[np.float64]: ...


@dataclass(frozen=True)
class Repaired:
    """Codes after the repair.

    Attributes
    ----------
    codes : int32 [n, L]; differs from the given codes in the last level alone
    moved : bool [n], items whose last code is not their nearest
    """

    codes: IntArray
    moved: NDArray[np.bool_]


def repair(codes: IntArray, experts: IntArray, texts: Sequence[str], distances: LastLevelDistances) -> Repaired:
    """Give items of different content different IDs, where possible.

    If a prefix holds more contents than there are codes, as many as possible get a code of their own and the rest keep
    their codes.

    Parameters
    ----------
    codes, experts : int32 [n, L] and [n, N] of one domain, nearest codes
    texts : n composed texts; see `contents_of`
    distances : called only for items below a prefix with a collision
    """
    repaired = np.array(codes)
    contents = contents_of(texts)
    prefixes = groups_of(np.concatenate([experts, codes[:, :-1]], axis=1))
    for rows in _with_collision(prefixes, codes[:, -1], contents):
        repaired[rows, -1] = _apart(codes[rows, -1], contents[rows], distances(rows))
    return Repaired(repaired, repaired[:, -1] != codes[:, -1])


def repair_encoded(network: TokenizerNetwork, encoded: TokenizedItems, texts: Sequence[str]) -> Repaired:
    """Repair the codes of one domain's items, by the distances of the last level of the tokenizer's network."""
    candidates = range(network.shape.codes)
    experts = first_experts(encoded.experts)

    def distances(rows: IntVector) -> NDArray[np.float64]:
        latents = encoded.latent[rows].astype(np.float64)
        items = zip(latents, experts[rows], encoded.codes[rows, :-1], strict=True)
        return np.stack(
            [network.distances(latent, int(expert), before, candidates) for latent, expert, before in items]
        )

    return repair(encoded.codes, encoded.experts, texts, distances)


def _with_collision(prefixes: IntVector, last: IntArray, contents: IntVector) -> list[IntVector]:
    """Rows of every prefix below which two contents share a last code."""
    per_code = np.unique(np.column_stack([prefixes, last, contents]), axis=0)
    codes, count = np.unique(per_code[:, :2], axis=0, return_counts=True)
    wanted = np.unique(codes[count > 1, 0])
    rows = np.argsort(prefixes, kind="stable")
    starts, ends = (np.searchsorted(prefixes[rows], wanted, side) for side in ("left", "right"))
    return [rows[start:end] for start, end in zip(starts, ends, strict=True)]


def _apart(last: IntArray, contents: IntVector, distances: NDArray[np.float64]) -> IntArray:
    """New last codes int32 [m] of the items below one prefix."""
    # Embeddings from files may differ for equal texts: the same content on different codes counts as different.
    pairs = np.column_stack([contents, last])
    _, first, inverse = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
    content = inverse.reshape(-1)
    codes, cost, weight = last[first].astype(np.int64), distances[first], np.bincount(content)
    # The content with the most items keeps its code; on ties the nearest.
    order = np.lexsort((cost[np.arange(len(codes)), codes], -weight))
    _, keeps = np.unique(codes[order], return_index=True)
    keepers = order[keeps]
    movers = np.setdiff1d(np.arange(len(codes)), keepers)
    free = np.setdiff1d(np.arange(distances.shape[1]), codes)
    chosen, places = linear_sum_assignment(cost[np.ix_(movers, free)] * weight[movers, None])
    codes[movers[chosen]] = free[places]
    return codes[content].astype(np.int32)
