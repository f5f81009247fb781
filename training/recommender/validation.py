"""NDCG@10 at the item level during training, on a fixed sample of users.

Each domain is measured with items of the history in the lists and with these removed, and the better figure counts. The
bonus that is learned after training (`repeats`) lies between the two or near one of them, and lists with all history
items would hide how good the rest has become. Knows nothing of optimisers, or of how lists are searched.

Symbols: B batch, W beams, n users.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import T5ForConditionalGeneration

from training.data.split import positions
from training.measures.ranking import discounted, item_ranks
from training.measures.users import even_shares
from training.networks.semantic_t5 import SemanticT5
from training.recommender.batches import collate
from training.recommender.corpus import Corpus, ExampleSet, IntVector
from training.recommender.searching import Search, by_head, searching

BATCH = {"cpu": 32, "cuda": 256}
"""Users searched together, by device: on a CPU few enough that the beams' key/value caches fit into its own cache, on a
GPU enough to fill it."""


@dataclass(frozen=True)
class ValidationFigures:
    """NDCG@10 and Recall@10 by domain (means over its users), and their means over domains."""

    ndcg_10: float
    recall_10: float
    by_domain: dict[str, dict[str, float]]

    def as_dict(self) -> dict[str, Any]:
        """As a dictionary, rounded to five digits."""
        return {
            "ndcg_10": round(self.ndcg_10, 5),
            "recall_10": round(self.recall_10, 5),
            "by_domain": {
                domain: {name: round(value, 5) for name, value in figures.items()}
                for domain, figures in self.by_domain.items()
            },
        }


def sample_users(examples: ExampleSet, domains: int, users: int, seed: int) -> IntVector:
    """Rows of about `users` examples, spread over the domains as evenly as their sizes allow, longest history first."""
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(examples))
    sizes = np.bincount(examples.domain, minlength=domains).tolist()
    shares = even_shares(sizes, users)
    rows = np.concatenate([shuffled[examples.domain[shuffled] == domain][:share] for domain, share in shares])
    return rows[np.argsort(examples.start[rows] - examples.stop[rows], kind="stable")]


class Validator:
    """Measures a network on a fixed sample of validation users.

    Parameters
    ----------
    corpus : histories and IDs; all items of a user's domain are searched, including those of the history
    users, beams, max_history, seed : size of the sample; beam width; items of a history; seed of the sample
    """

    def __init__(self, corpus: Corpus, users: int, beams: int, max_history: int, seed: int) -> None:
        rows = sample_users(corpus.validation, len(corpus.domains), users, seed)
        self._corpus, self._beams, self._max_history = corpus, beams, max_history
        self._examples = corpus.validation.take(rows)
        self._index = corpus.trie().arrays()

    def ranked_lists(self, model: T5ForConditionalGeneration, device: int = 0, devices: int = 1) -> IntVector:
        """Numbers of the items found, best first, -1 where there is none: int64 [n, W].

        W is the beam width; if the head scores all items, plus `max_history`. Each of several devices searches every
        `devices`-th batch; its rows of the other batches are 0.
        """
        lists = np.zeros((len(self._examples), self._beams + self._max_history), dtype=np.int64)
        size = BATCH[model.device.type]
        found: AbstractContextManager[Search]
        if isinstance(model, SemanticT5) and model.item_share == 1:
            found = nullcontext(by_head(model, self._corpus, lists.shape[1]))
        else:
            lists = lists[:, : self._beams]
            found = searching(model, self._corpus.layout, self._index, self._beams)
        with found as search:
            for at in range(device * size, len(lists), devices * size):
                rows = np.arange(at, min(at + size, len(lists)))
                examples = self._examples.take(rows)
                batch = collate(self._corpus, examples, self._max_history)
                lists[rows] = search(batch.history, batch.mask, examples.domain)
        return lists

    def figures(self, lists: IntVector) -> ValidationFigures:
        """Figures of the lists, int64 [n, W]."""
        kept = item_ranks(lists, self._corpus.history_items[self._examples.stop])
        removed = _ranks_without(lists, kept, self._held(lists))
        by_domain = {}
        for number, name in enumerate(self._corpus.domains):
            own = self._examples.domain == number
            if own.any():
                by_domain[name] = max(
                    (
                        {
                            "ndcg_10": float(discounted(ranks[own], 10).mean()),
                            "recall_10": float((ranks[own] < 10).mean()),
                        }
                        for ranks in (kept, removed)
                    ),
                    key=lambda each: each["ndcg_10"],
                )
        ndcg, recall = (
            float(np.mean([each[name] for each in by_domain.values()])) for name in ("ndcg_10", "recall_10")
        )
        return ValidationFigures(ndcg, recall, by_domain)

    def _held(self, lists: IntVector) -> NDArray[np.bool_]:
        """Which items of the lists, int64 [n, W], are in the user's history: bool [n, W]."""
        examples, items = self._examples, self._corpus.history_items
        user = np.repeat(np.arange(len(examples)), examples.stop - examples.start)
        places = positions(examples.start, examples.stop)
        # A distinct number for each pair of user and item.
        of_each = int(self._corpus.item_starts[-1]) + 1
        held: NDArray[np.bool_] = np.isin(
            lists + 1 + np.arange(len(lists))[:, None] * of_each, items[places].astype(np.int64) + 1 + user * of_each
        )
        return held


def _ranks_without(lists: IntVector, ranks: IntVector, held: NDArray[np.bool_]) -> IntVector:
    """Ranks of the targets after the held items, bool [n, W], are removed; W where the target itself is removed."""
    width = lists.shape[1]
    before = np.pad(held.cumsum(axis=1), ((0, 0), (1, 0)))[np.arange(len(lists)), ranks]
    gone = (ranks < width) & held[np.arange(len(lists)), np.minimum(ranks, width - 1)]
    found: IntVector = np.where((ranks == width) | gone, width, ranks - before)
    return found
