"""NDCG@10 at the item level while training: what is found for a fixed sample of users.

Knows nothing of optimisers, nor of how lists are searched for.

Symbols: B batch, W beams, n users.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import T5ForConditionalGeneration

from training.evaluation.ranking import discounted, item_ranks
from training.evaluation.users import even_shares
from training.networks.semantic_t5 import SemanticT5
from training.recommender.batches import collate
from training.recommender.corpus import Corpus, ExampleSet, IntVector
from training.recommender.searching import Search, by_head, searching

BATCH = {"cpu": 32, "cuda": 256}
"""Users searched together: on a processor few enough for the beams' caches to stay in its own, on a GPU enough to fill
it."""


@dataclass(frozen=True)
class ValidationFigures:
    """NDCG@10 and Recall@10 by domain, and their means over domains; users of one domain weigh the same."""

    ndcg_10: float
    recall_10: float
    by_domain: dict[str, dict[str, float]]

    def as_dict(self) -> dict[str, Any]:
        """By name, rounded to five digits."""
        return {
            "ndcg_10": round(self.ndcg_10, 5),
            "recall_10": round(self.recall_10, 5),
            "by_domain": {
                domain: {name: round(value, 5) for name, value in figures.items()}
                for domain, figures in self.by_domain.items()
            },
        }


def sample_users(examples: ExampleSet, domains: int, users: int, seed: int) -> IntVector:
    """Rows of about `users` examples, spread evenly over the domains as far as they have as many, longest first."""
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
    corpus : histories and IDs; every item of a user's domain may be found, those of the history included
    users, beams, max_history, seed : size of the sample, of the search, of a history; what draws the sample
    """

    def __init__(self, corpus: Corpus, users: int, beams: int, max_history: int, seed: int) -> None:
        rows = sample_users(corpus.validation, len(corpus.domains), users, seed)
        self._corpus, self._beams, self._max_history = corpus, beams, max_history
        self._examples = corpus.validation.take(rows)
        self._index = corpus.trie().arrays()

    def ranked_lists(self, model: T5ForConditionalGeneration, device: int = 0, devices: int = 1) -> IntVector:
        """Numbers of the items found, best first, -1 where there is none: int64 [n, W].

        Of several devices, each searches every `devices`-th batch; rows of the others are 0.
        """
        lists = np.zeros((len(self._examples), self._beams), dtype=np.int64)
        size = BATCH[model.device.type]
        found: AbstractContextManager[Search]
        if isinstance(model, SemanticT5) and model.item_share == 1:
            found = nullcontext(by_head(model, self._corpus, self._beams))
        else:
            found = searching(model, self._corpus.layout, self._index, self._beams)
        with found as search:
            for at in range(device * size, len(lists), devices * size):
                rows = np.arange(at, min(at + size, len(lists)))
                examples = self._examples.take(rows)
                batch = collate(self._corpus, examples, self._max_history)
                lists[rows] = search(batch.history, batch.mask, examples.domain)
        return lists

    def figures(self, lists: IntVector) -> ValidationFigures:
        """Judge the lists: int64 [n, W]."""
        ranks = item_ranks(lists, self._corpus.history_items[self._examples.stop])
        by_domain = {}
        for number, name in enumerate(self._corpus.domains):
            own = ranks[self._examples.domain == number]
            if len(own):
                by_domain[name] = {
                    "ndcg_10": float(discounted(own, 10).mean()),
                    "recall_10": float((own < 10).mean()),
                }
        ndcg, recall = (
            float(np.mean([each[name] for each in by_domain.values()])) for name in ("ndcg_10", "recall_10")
        )
        return ValidationFigures(ndcg, recall, by_domain)
