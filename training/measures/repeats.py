"""Learn the score bonus of history items, three numbers per domain, on validation data.

The network's scores cannot tell whether items are repeated: even where users rate each item once, the last item of a
history is still the one most similar to itself. So items of the history get the bonus of `LearnedRepeats`. It may be
below zero. If any validation target is in its history, recency and frequency are learned as well. The coefficients with
the best NDCG@10 of validation are taken; among equally good ones the least recency, then the least frequency, then the
bonus closest to zero.

Symbols: n users, m distinct items of their histories, counted per user.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from service.bundle.repeats import LearnedRepeats, met
from service.semantic_ids import IntArray
from training.measures.ranking import discounted

CUT = 10
USERS = 10_000
"""Greatest number of users taken of a domain."""

BONUSES = np.arange(-12.0, 12.5, 0.5)
"""Bonuses of the grid search, in units of the head's scores; recencies and frequencies follow in the same units."""
RECENCIES = (0.0, 0.5, 1.0, 2.0, 3.0)
FREQUENCIES = (0.0, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Scored:
    """The scores that determine the targets' ranks within the top ten, for any bonus of history items.

    Attributes
    ----------
    best : float32 [n, 10], the best scores of items outside the history, -inf where there are no more
    wanted : float32 [n], the target's score without bonus
    user : int64 [m], the user whose history holds the item
    scores : float32 [m], of the items of the histories
    ago, times : int64 [m], position of an item's last occurrence (1: the newest), and its number of occurrences
    is_target : bool [m]
    """

    best: NDArray[np.float32]
    wanted: NDArray[np.float32]
    user: NDArray[np.int64]
    scores: NDArray[np.float32]
    ago: NDArray[np.int64]
    times: NDArray[np.int64]
    is_target: NDArray[np.bool_]

    @classmethod
    def of(cls, scored: Iterable[tuple[NDArray[np.float32], int, IntArray]]) -> Scored:
        """Collect from each user's scores float32 [items], target, and history (oldest first)."""
        best: list[NDArray[np.float32]] = []
        wanted: list[np.float32] = []
        scores: list[NDArray[np.float32]] = []
        known: list[tuple[int, int, int, bool]] = []
        for user, (own, target, history) in enumerate(scored):
            its = met(history.tolist())
            held = list(its)
            others = np.append(np.delete(own, held), np.full(CUT, -np.inf, dtype=np.float32))
            best.append(np.partition(others, len(others) - CUT)[-CUT:])
            wanted.append(own[target])
            scores.append(own[held])
            known.extend((user, ago, times, item == target) for item, (ago, times) in its.items())
        user_of, ago, times, is_target = np.array(known, dtype=np.int64).reshape(-1, 4).T
        return cls(
            np.array(best, dtype=np.float32).reshape(-1, CUT),
            np.array(wanted, dtype=np.float32),
            user_of,
            np.concatenate([*scores, np.zeros(0, dtype=np.float32)]),
            ago,
            times,
            is_target.astype(bool),
        )

    def ndcg(self, learned: LearnedRepeats) -> float:
        """Sum of the users' NDCG@10 under a bonus; items with the target's score rank behind it."""
        gained = learned.gains(self.ago, self.times)
        raised = self.scores + gained
        wanted = self.wanted.astype(np.float64)
        wanted[self.user[self.is_target]] += gained[self.is_target]
        before = (self.best > wanted[:, None]).sum(axis=1)
        before += np.bincount(self.user, weights=raised > wanted[self.user], minlength=len(wanted)).astype(np.int64)
        return float(discounted(before, CUT).sum())


def best_repeats(scored: Iterable[tuple[NDArray[np.float32], int, IntArray]]) -> LearnedRepeats:
    """Grid search for the bonus with the best NDCG@10; the simplest one on ties, with the bonus closest to zero.

    Parameters
    ----------
    scored : each user's scores float32 [items], target, and history (oldest first)
    """
    users = Scored.of(scored)
    further = product(RECENCIES, FREQUENCIES) if users.is_target.any() else [(0.0, 0.0)]
    tried = [
        LearnedRepeats(bonus=bonus, recency=recency, frequency=frequency)
        for recency, frequency in further
        for bonus in sorted(BONUSES.tolist(), key=abs)
    ]
    found = np.array([users.ndcg(each) for each in tried])
    return tried[int((found >= found.max() * (1 - 1e-9)).argmax())]
