"""The k-core of a set of interactions: every remaining user and item has at least k of them.

Knows nothing of files, nor of what users and items are.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray


def number(values: pl.Series) -> NDArray[np.int64]:
    """Number the distinct values from 0 in order of first appearance: int64 [n]."""
    distinct = pl.DataFrame({"value": values.unique(maintain_order=True)}).with_row_index("number")
    joined = pl.DataFrame({"value": values}).join(distinct, on="value", how="left", maintain_order="left")
    return joined["number"].to_numpy().astype(np.int64)


def core_mask(users: NDArray[np.int64], items: NDArray[np.int64], k: int) -> NDArray[np.bool_]:
    """Which interactions belong to the k-core.

    Repeated interactions of a user with an item are all counted, as in the published 5-core sets.

    Parameters
    ----------
    users, items : int64 [n], numbers from 0
    k : interactions that every user and item must have

    Returns
    -------
    bool [n]; the k-core is unique, so the order of removal does not matter
    """
    kept = np.arange(len(users))
    while len(kept):
        enough_of_user = np.bincount(users[kept])[users[kept]] >= k
        enough_of_item = np.bincount(items[kept])[items[kept]] >= k
        both = enough_of_user & enough_of_item
        if both.all():
            break
        kept = kept[both]
    mask = np.zeros(len(users), dtype=np.bool_)
    mask[kept] = True
    return mask
