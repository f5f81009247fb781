"""Items of training domains that are held out from the tokenizer's training, as a proxy for items added later.

Symbols: n items of a domain, L levels, N experts per item. Knows nothing of how a tokenizer learns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.semantic_ids import IntArray
from training.ids.counts import groups_of
from training.ids.table import contents_of

BoolArray = NDArray[np.bool_]


def learned_from(texts: Sequence[str], share: float) -> BoolArray:
    """Mask of the n items to train on, bool [n]: all but a random share of the distinct contents.

    Items of equal content stay together. At least one content is kept, since a domain without training items would have
    no codes. The draw depends on the texts alone, so that every kind and seed of tokenizer holds out the same items.
    """
    contents = np.unique(contents_of(texts), return_inverse=True)[1].reshape(-1)
    distinct = int(contents.max()) + 1
    drawn = np.random.default_rng(0).permutation(distinct)[: min(round(share * distinct), distinct - 1)]
    return ~np.isin(contents, drawn)


def held_out_sharing(codes: IntArray, experts: IntArray, texts: Sequence[str], learned: BoolArray) -> float:
    """Share of held-out contents that share their ID with another content of the domain, held out or not.

    Parameters
    ----------
    codes, experts : int32 [n, L] and [n, N], before any repair
    texts : n composed texts
    learned : bool [n], result of `learned_from`, not all true
    """
    _, firsts = np.unique(contents_of(texts), return_index=True)
    groups = groups_of(np.concatenate([codes, experts], axis=1)[firsts])
    shared = np.bincount(groups)[groups] > 1
    return float(shared[~learned[firsts]].mean())
