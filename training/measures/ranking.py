"""Recall and NDCG of ranked lists, at the item level and at the level of ID tuples. Knows nothing of models.

Symbols: n users, W length of a list. Ranks are 0-based; the rank W means that the target is not in the list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

IntVector = NDArray[np.int64]
NO_RESULT = -1
"""Pads a list that holds fewer than W items."""


@dataclass(frozen=True)
class RankingFigures:
    """Means over users. Each has one target, so Recall@k is the hit rate, and a hit's NDCG@k is 1 / log2(rank + 2)."""

    recall_5: float
    recall_10: float
    ndcg_5: float
    ndcg_10: float

    def as_dict(self) -> dict[str, float]:
        """By name, rounded to five digits."""
        return {name: round(value, 5) for name, value in asdict(self).items()}


def item_ranks(lists: NDArray[np.integer], targets: NDArray[np.integer]) -> IntVector:
    """Rank of each target in its list.

    lists : int [n, W], best first, padded with `NO_RESULT`; targets : int [n] -> int64 [n]
    """
    found = lists == targets[:, None]
    ranks: IntVector = np.where(found.any(axis=1), found.argmax(axis=1), lists.shape[1])
    return ranks


def tuple_ranks(lists: NDArray[np.integer], targets: NDArray[np.integer], group_of: NDArray[np.integer]) -> IntVector:
    """Rank of each target's ID tuple (its ID without the suffix) in the list of *distinct* tuples.

    This is the less strict measure of publications that compare IDs: any item with the target's codes and experts is a
    hit.

    lists, targets : as for `item_ranks`; group_of : int [items], equal for items with equal tuples
    """
    groups = np.where(lists == NO_RESULT, NO_RESULT, group_of[lists])
    earlier = np.tril(np.ones((lists.shape[1],) * 2, dtype=np.bool_), -1)
    is_first = ~((groups[:, :, None] == groups[:, None, :]) & earlier).any(axis=2)
    found = groups == group_of[targets][:, None]
    position = found.argmax(axis=1)
    distinct_before = is_first.cumsum(axis=1)[np.arange(len(lists)), position] - 1
    ranks: IntVector = np.where(found.any(axis=1), distinct_before, lists.shape[1])
    return ranks


def random_within_tuples(
    lists: NDArray[np.integer],
    group_of: NDArray[np.integer],
    random: np.random.Generator,
    left_out: Sequence[NDArray[np.integer]] | None = None,
) -> IntVector:
    """The lists without disambiguation: each found tuple is replaced by all items that share it, in random order.

    Tuples are ordered by their best item. The random order is drawn for each list separately.

    lists, group_of : as for `tuple_ranks` -> int64 [n, W]; left_out : for each list, items to leave out; None: none
    """
    by_group = np.argsort(group_of, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(group_of))])
    shuffled = np.full(lists.shape, NO_RESULT, dtype=np.int64)
    for row, ranked in enumerate(lists):
        groups = dict.fromkeys(group_of[ranked[ranked != NO_RESULT]].tolist())
        members = [random.permutation(by_group[starts[group] : starts[group + 1]]) for group in groups]
        items = np.concatenate([*members, np.empty(0, dtype=np.int64)])
        if left_out is not None:
            items = items[~np.isin(items, left_out[row])]
        items = items[: lists.shape[1]]
        shuffled[row, : len(items)] = items
    return shuffled


def discounted(ranks: IntVector, cutoff: int) -> NDArray[np.float64]:
    """NDCG@cutoff of each user, float64 [n]."""
    return np.where(ranks < cutoff, 1.0 / np.log2(ranks + 2.0), 0.0)


def ranking_figures(ranks: IntVector) -> RankingFigures:
    """Means over users; all 0 if there are no users."""
    if not len(ranks):
        return RankingFigures(0.0, 0.0, 0.0, 0.0)
    return RankingFigures(
        recall_5=float((ranks < 5).mean()),
        recall_10=float((ranks < 10).mean()),
        ndcg_5=float(discounted(ranks, 5).mean()),
        ndcg_10=float(discounted(ranks, 10).mean()),
    )


def most_popular(training_items: NDArray[np.integer], item_count: int, k: int) -> IntVector:
    """The k most frequent items, ties by item number: int64 [min(k, items)]."""
    counts = np.bincount(training_items, minlength=item_count)
    return np.argsort(-counts, kind="stable")[:k].astype(np.int64)


@dataclass(frozen=True)
class ScoredRanks:
    """Rank of each target by the item head, int64 [n]: `known` with its full vector, `new` as if it had come after
    training, with the vectors of its tokens alone. `new` is optimistic: these vectors have learned from the target too.
    """

    known: NDArray[np.int64]
    new: NDArray[np.int64]
