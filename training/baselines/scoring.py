"""From scores of all items of a domain to ranked lists and figures. Knows nothing of how scores are computed.

Symbols: B users of a batch, S items of the longest history, n users.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.bundle.repeats import LearnedRepeats, met
from training.data.split import PADDING, Examples
from training.measures.ranking import NO_RESULT, RankingFigures, item_ranks, ranking_figures
from training.measures.repeats import USERS, best_repeats
from training.measures.users import evaluated_users

Scorer = Callable[[NDArray[np.int64], NDArray[np.int32]], Tensor]
"""`scorer(users int64 [B], histories int32 [B, S])` -> float32 [B, items]; histories are padded at the end."""

LONGEST = 10
"""Length of the lists."""
BATCH = 256


@dataclass(frozen=True)
class Lists:
    """Item rows, best first, padded with `NO_RESULT`; both int64 [n, 10].

    Attributes
    ----------
    kept : with items of the history
    removed : without items of the history
    """

    kept: NDArray[np.int64]
    removed: NDArray[np.int64]


@dataclass(frozen=True)
class Measured:
    """Figures of one part of a split, with items of the history kept in the lists and removed from them."""

    kept: RankingFigures
    removed: RankingFigures


def ranked(scores: Tensor, histories: NDArray[np.int32]) -> Lists:
    """Ranked lists from scores float32 [B, items]; items of histories int32 [B, S] are removed in `removed`."""
    length = min(scores.shape[1], LONGEST + histories.shape[1])
    best = scores.topk(length, dim=1).indices.cpu().numpy()
    best = np.pad(best, ((0, 0), (0, max(0, LONGEST - length))), constant_values=NO_RESULT)
    known = (best[:, :, None] == histories[:, None, :]).any(axis=2)
    order = np.argsort(known, axis=1, kind="stable")
    unknown = np.where(np.take_along_axis(known, order, 1), NO_RESULT, np.take_along_axis(best, order, 1))
    return Lists(best[:, :LONGEST], unknown[:, :LONGEST])


def measure(scorer: Scorer, examples: Examples, history_items: NDArray[np.int32], max_history: int) -> Measured:
    """Rank all items for every example and compute figures at the item level.

    The scorer reads the newest `max_history` items of a history; all items of an example's history are removed.
    """
    read = examples.matrix(history_items, max_history)
    known = examples.matrix(history_items, int((examples.stops - examples.starts).max(initial=1)))
    parts = []
    with torch.no_grad():
        for at in range(0, len(examples), BATCH):
            rows = slice(at, at + BATCH)
            parts.append(ranked(scorer(examples.users[rows], read[rows]), known[rows]))
    if not parts:
        nobody = ranking_figures(np.zeros(0, dtype=np.int64))
        return Measured(nobody, nobody)
    kept, removed = (np.concatenate([getattr(part, name) for part in parts]) for name in ("kept", "removed"))
    return Measured(
        ranking_figures(item_ranks(kept, examples.targets)), ranking_figures(item_ranks(removed, examples.targets))
    )


def learned_repeats(
    scorer: Scorer, validation: Examples, history_items: NDArray[np.int32], max_history: int
) -> LearnedRepeats:
    """The bonus of items of the history, learned by the same rule and from as many users as for our recommenders."""
    examples = evaluated_users(validation, USERS, 0)
    histories = examples.matrix(history_items, max_history)

    def scored() -> Iterator[tuple[NDArray[np.float32], int, NDArray[np.int32]]]:
        for at in range(0, len(examples), BATCH):
            rows = slice(at, at + BATCH)
            scores = scorer(examples.users[rows], histories[rows]).cpu().numpy()
            for own, target, history in zip(scores, examples.targets[rows].tolist(), histories[rows], strict=True):
                yield own, target, history[history != PADDING]

    with torch.no_grad():
        return best_repeats(scored())


def with_repeats(scorer: Scorer, learned: LearnedRepeats) -> Scorer:
    """A scorer that adds the learned bonus to items of the history."""

    def scores(users: NDArray[np.int64], histories: NDArray[np.int32]) -> Tensor:
        raised = scorer(users, histories).clone()
        for row, history in enumerate(histories):
            its = met(history[history != PADDING].tolist())
            ago, times = zip(*its.values(), strict=True)
            raised[row, list(its)] += torch.from_numpy(learned.gains(ago, times)).to(raised)
        return raised

    return scores
