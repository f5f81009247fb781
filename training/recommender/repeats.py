"""What is added to the score of an item because the history holds it already: one number a domain.

What judges items cannot say it. Where all users rate an item once, the last item is yet the one most like itself; where
some come back, it is one of many that are like it. So an item of the history gets a bonus, which may be below zero:
the one with the best NDCG@10 of validation, of several that are equally good the one next to zero.

Symbols: I items of the domain, R bonuses that are tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from service.semantic_ids import IntArray
from training.data.dataset import DomainData
from training.evaluation.exhaustive import judging_states
from training.evaluation.ranking import discounted
from training.evaluation.users import evaluated_users, split_for
from training.networks.semantic_t5 import SemanticT5
from training.networks.t5 import TrainedRecommender

CUT = 10
USERS = 10_000
"""Of a domain, at most."""

BONUSES = np.arange(-12.0, 12.5, 0.5)
"""Which are tried, in units of the head's scores."""


def places(
    scores: NDArray[np.float32], target: int, history: IntArray, bonuses: NDArray[np.float64]
) -> NDArray[np.int64]:
    """How many items come before the target with each bonus, int64 [R].

    Parameters
    ----------
    scores : float32 [I]
    target : an item
    history : distinct items
    bonuses : float64 [R]
    """
    wanted, held = scores[target], scores[history]
    others = np.delete(scores, history)
    if target in history:
        ascending = np.sort(others)
        before: NDArray[np.int64] = len(others) - np.searchsorted(ascending, wanted + bonuses, side="right")
        return before + int((held > wanted).sum())
    raised: NDArray[np.int64] = (held[:, None] + bonuses > wanted).sum(axis=0)
    return raised + int((others > wanted).sum())


def best_bonus(judged: Iterable[tuple[NDArray[np.float32], int, IntArray]]) -> float:
    """The one of `BONUSES` with the best NDCG@10; of several, the one next to zero.

    Parameters
    ----------
    judged : of each user, what `places` takes: scores float32 [I], target, distinct items of the history
    """
    gained = np.zeros(len(BONUSES))
    for scores, target, history in judged:
        gained += discounted(places(scores, target, history, BONUSES), CUT)
    best = np.flatnonzero(gained >= gained.max() * (1 - 1e-9))
    return float(BONUSES[best[np.abs(BONUSES[best]).argmin()]])


@torch.inference_mode()
def learned_bonus(trained: TrainedRecommender, domain: DomainData, values: IntArray) -> float | None:
    """The bonus of a domain from validation targets, in units of a search's scores; None without a head over items.

    Parameters
    ----------
    values : int32 [I, L + N + 1], the semantic IDs of the domain
    """
    model = trained.model
    if not isinstance(model, SemanticT5):
        return None
    examples = evaluated_users(split_for(domain, trained.max_history).validation, USERS, 0)
    tokens = torch.from_numpy(trained.layout.tokens(values).astype(np.int64))
    vectors = model.item_vectors(tokens)

    def judged() -> Iterator[tuple[NDArray[np.float32], int, IntArray]]:
        for batch, states in judging_states(trained, model, domain, values, examples):
            for row, user in zip((states @ vectors.T).numpy(), batch.tolist(), strict=True):
                items = np.unique(domain.history_items[examples.starts[user] : examples.stops[user]])
                yield row, int(examples.targets[user]), items

    return best_bonus(judged()) * model.item_share
