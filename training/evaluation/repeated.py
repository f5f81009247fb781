"""Ranked lists in which items of the history get the bonus that the recommender has learned for repeats.

Does for a batch what the service does for one request (`service/operations/repeats.py`): items of the history are
searched in an index of their own, get the bonus of the domain, and are merged with the other items.

Symbols: B batch, W beams, I items of the domain.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.bundle.repeats import LearnedRepeats, met
from service.engine.history_tokens import HistoryTokens
from service.engine.recommender import BeamResult, Recommender
from service.index.trie import CodeTrie
from service.semantic_ids import IntArray


def with_repeats(
    recommender: Recommender,
    values: IntArray,
    history: HistoryTokens,
    items_of: Sequence[IntArray],
    *,
    others: BeamResult,
    learned: LearnedRepeats,
) -> NDArray[np.int64]:
    """Item rows of both searches merged, best first, padded with -1: int64 [B, W].

    Parameters
    ----------
    values : int32 [I, L + N + 1], the semantic IDs of the domain
    history, items_of : each request's history, as tokens, and as item rows, oldest first
    others : result of the search without the items of the history
    learned : the bonuses of repeats in this domain
    """
    known = [met(items.tolist()) for items in items_of]
    rows = np.array([item for its in known for item in its], dtype=np.int64)
    owner = np.repeat(np.arange(len(known)), [len(its) for its in known])
    ago, times = np.array([each for its in known for each in its.values()], dtype=np.int64).reshape(-1, 2).T
    gained = np.zeros((len(known), len(values)), dtype=np.float32)
    gained[owner, rows] = learned.gains(ago, times)
    tokens = recommender.layout.tokens(values[rows])
    index = CodeTrie.from_tokens(tokens, owner.astype(np.int32), rows.astype(np.int32), len(known)).arrays()
    # A beam for each of them, since a search ranks by scores without the bonus and would drop the rest.
    width = max(map(len, known))
    nothing = np.full((len(known), 1), -1, dtype=np.int32)
    again = recommender.search(history.tokens, history.mask, index, index.roots[:, None], nothing, width)
    raised = again.log_prob + np.take_along_axis(gained, np.maximum(again.leaf, 0), axis=1)
    scores = np.concatenate([others.log_prob, raised], axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, : others.leaf.shape[1]]
    return np.take_along_axis(np.concatenate([others.leaf, again.leaf], axis=1), order, axis=1).astype(np.int64)
