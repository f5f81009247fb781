"""Lists in which items of the history stand where a recommender has learned that they belong.

As the service makes them (`service/repeats.py`): the items of a history are searched alone, over an index of their own,
raised by the domain's bonus, and put among the others. Here for a whole batch at once.

Symbols: B batch, W beams, I items of the domain.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

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
    bonus: float,
) -> NDArray[np.int64]:
    """Item rows of both, best first, -1 where there is none: int64 [B, W].

    Parameters
    ----------
    values : int32 [I, L + N + 1], the semantic IDs of the domain
    history, items_of : of each request, as tokens, and as item rows
    others : what a search without the items of the history found
    bonus : what their scores gain
    """
    distinct = [np.unique(items) for items in items_of]
    rows, owner = np.concatenate(distinct), np.repeat(np.arange(len(distinct)), [len(items) for items in distinct])
    tokens = recommender.layout.tokens(values[rows])
    index = CodeTrie.from_tokens(tokens, owner.astype(np.int32), rows.astype(np.int32), len(distinct)).arrays()
    beams = others.leaf.shape[1]
    width = min(beams, max(map(len, distinct)))
    nothing = np.full((len(distinct), 1), -1, dtype=np.int32)
    again = recommender.search(history.tokens, history.mask, index, index.roots[:, None], nothing, width)
    scores = np.concatenate([others.log_prob, again.log_prob + np.float32(bonus)], axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :beams]
    return np.take_along_axis(np.concatenate([others.leaf, again.leaf], axis=1), order, axis=1).astype(np.int64)
