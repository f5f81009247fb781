"""Items of known domains that a tokenizer does not learn from, to see how items fare that come after training.

Symbols: n items of a domain, L levels, N experts an item. Knows nothing of how a tokenizer learns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.semantic_ids import IntArray
from training.tokenizer.counts import groups_of
from training.tokenizer.ids import contents_of

BoolArray = NDArray[np.bool_]


def learned_from(texts: Sequence[str], share: float) -> BoolArray:
    """Which of n items are learned from, bool [n]: all but a share of the distinct contents, drawn at random.

    Items of equal content stay together, and one content is always learned from: a domain of which nothing is would
    have no codes. The draw depends on the texts alone, so that every kind and seed of tokenizer holds out the same
    items of a domain.
    """
    contents = np.unique(contents_of(texts), return_inverse=True)[1].reshape(-1)
    distinct = int(contents.max()) + 1
    drawn = np.random.default_rng(0).permutation(distinct)[: min(round(share * distinct), distinct - 1)]
    return ~np.isin(contents, drawn)


def held_out_sharing(codes: IntArray, experts: IntArray, texts: Sequence[str], learned: BoolArray) -> float:
    """Share of held-out contents whose ID some other content of the domain has, learned from or not.

    Parameters
    ----------
    codes, experts : int32 [n, L] and [n, N], before any repair
    texts : n composed texts
    learned : bool [n], as `learned_from` gave; some are not
    """
    _, firsts = np.unique(contents_of(texts), return_index=True)
    groups = groups_of(np.concatenate([codes, experts], axis=1)[firsts])
    shared = np.bincount(groups)[groups] > 1
    return float(shared[~learned[firsts]].mean())
