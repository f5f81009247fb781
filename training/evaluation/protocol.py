"""The evaluation protocol: leave-one-out by time, full ranking, a hit is a hit on the item.

Ranked lists come from the engine that serves: its graph and the service's constraint index. Items of the history are
removed only on request. Knows nothing of torch, nor of where IDs and graphs come from.

Symbols: B batch, W beams, n users, L levels, N experts an item.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from service.engine.recommender import Recommender
from service.index.trie import CodeTrie
from service.progress import Advance
from service.semantic_ids import IntArray
from training.data.dataset import DomainData
from training.data.split import Examples, training_stretches
from training.evaluation.repeated import with_repeats
from training.ids.counts import groups_of, sharing
from training.ids.table import DomainIds, ids_of
from training.measures.histories import batched_histories, histories_of
from training.measures.ranking import (
    RankingFigures,
    item_ranks,
    most_popular,
    random_within_tuples,
    ranking_figures,
    tuple_ranks,
)

BATCH = 32


@dataclass(frozen=True)
class DomainEvaluation:
    """Figures of one domain.

    Attributes
    ----------
    users, items : number of evaluated users, and of items that each list was ranked among
    item_level : a hit is a hit on the item
    tuple_level : a hit is any item with the target's codes and experts, as in publications that compare IDs
    popularity : the ten most frequent training items for every user, item level
    popularity_tuple_level : the ten most frequent ID tuples of the training part for every user
    items_sharing_a_tuple : share of the items whose codes and experts another item has too
    """

    users: int
    items: int
    item_level: RankingFigures
    tuple_level: RankingFigures
    popularity: RankingFigures
    popularity_tuple_level: RankingFigures
    items_sharing_a_tuple: float

    def as_dict(self) -> dict[str, Any]:
        """The entry in `evaluation.json`."""
        return {
            "users": self.users,
            "items": self.items,
            "item_level": self.item_level.as_dict(),
            "tuple_level": self.tuple_level.as_dict(),
            "popularity": self.popularity.as_dict(),
            "popularity_tuple_level": self.popularity_tuple_level.as_dict(),
            "items_sharing_a_tuple": round(self.items_sharing_a_tuple, 5),
        }


def catalogue_ids(path: Path) -> dict[str, DomainIds]:
    """IDs of a bundle's catalogue, by domain, in the order of its rows."""
    return ids_of(pl.read_parquet(path, columns=["domain", "item_id", "codes", "experts", "suffix"], glob=False))


def without_suffixes(values: IntArray) -> IntArray:
    """Semantic IDs int32 [items, L + N + 1] with all suffixes 0: histories without disambiguation."""
    return np.concatenate([values[:, :-1], np.zeros_like(values[:, -1:])], axis=1)


def ranked_lists(
    recommender: Recommender,
    domain: DomainData,
    values: IntArray,
    examples: Examples,
    *,
    beams: int,
    advance: Advance,
    read: IntArray | None = None,
    remove_history: bool = False,
    without_repeats: bool = False,
) -> NDArray[np.int64]:
    """Item rows that the serving engine recommends, best first, padded with -1: int64 [n, W].

    Users are batched by the length of their history; the order of the result is that of `examples`. Items of the
    history, unless removed, are ranked with the bonus that the recommender has learned for repeats, if any.

    Parameters
    ----------
    values : int32 [items, L + N + 1], the IDs to search
    read : the same shape, the items' IDs as written in histories; None: `values`
    remove_history : no list holds an item of its history
    without_repeats : ignore the learned bonus of repeats
    """
    read = values if read is None else read
    layout = recommender.layout
    rows = np.arange(len(values), dtype=np.int32)
    trie = CodeTrie.from_tokens(layout.tokens(values), np.zeros(len(values), dtype=np.int32), rows, 1)
    index = trie.arrays()
    lists = np.full((len(examples), beams), -1, dtype=np.int64)
    max_history = recommender.part.max_history
    learned = None if remove_history or without_repeats else recommender.part.repeats.get(domain.name)
    for batch, history in batched_histories(layout, domain, read, examples, max_history=max_history, size=BATCH):
        roots = np.zeros((len(batch), 1), dtype=np.int32)
        blocked = np.full((len(batch), 1), -1, dtype=np.int32)
        items_of = histories_of(domain, examples, batch)
        if remove_history or learned is not None:
            root = roots[0]
            edges = [trie.blocked_edges(root.repeat(len(items)), layout.tokens(values[items])) for items in items_of]
            blocked = np.full((len(batch), max(len(each) for each in edges)), -1, dtype=np.int32)
            for row, each in enumerate(edges):
                blocked[row, : len(each)] = each
        found = recommender.search(history.tokens, history.mask, index, roots, blocked, beams)
        lists[batch] = (
            found.leaf
            if learned is None
            else with_repeats(recommender, values, history, items_of, others=found, learned=learned)
        )
        advance(len(batch))
    return lists


def score(
    domain: DomainData,
    values: IntArray,
    examples: Examples,
    lists: NDArray[np.int64],
    shuffle: np.random.Generator | None = None,
    *,
    remove_history: bool = False,
) -> DomainEvaluation:
    """Compare ranked lists int64 [n, W] with the targets; the popularity rule is the baseline.

    Parameters
    ----------
    values : int32 [items, L + N + 1], the semantic IDs of the domain
    examples : n users, one list each
    shuffle : draws the order of items that share a tuple, if disambiguation is switched off; else None
    remove_history : see `ranked_lists`; with `shuffle`, items of the history are left out of all tuples
    """
    groups = groups_of(values[:, :-1])
    histories = histories_of(domain, examples, range(len(examples))) if remove_history else None
    item_lists = lists if shuffle is None else random_within_tuples(lists, groups, shuffle, histories)
    seen = training_stretches(domain.history_starts).interactions(domain.history_items).items
    popular = np.broadcast_to(most_popular(seen, len(values), 10), (len(examples), min(10, len(values))))
    popular_groups = most_popular(groups[seen], int(groups.max()) + 1, 10)
    popular_tuples = np.broadcast_to(popular_groups, (len(examples), len(popular_groups)))
    return DomainEvaluation(
        users=len(examples),
        items=len(values),
        item_level=ranking_figures(item_ranks(item_lists, examples.targets)),
        tuple_level=ranking_figures(tuple_ranks(lists, examples.targets, groups)),
        popularity=ranking_figures(item_ranks(popular, examples.targets)),
        popularity_tuple_level=ranking_figures(item_ranks(popular_tuples, groups[examples.targets])),
        items_sharing_a_tuple=sharing(groups),
    )
