"""Made-up histories, on which the search of a published bundle is proven.

The stage `export` stores some of the histories it proves with, so that `unitok verify` can repeat the proof anywhere.
We may not publish those of the sample's ratings. Knows nothing of films.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from training.data.dataset import INTERACTION_SCHEMA

SHORTEST, LONGEST = 3, 12
"""Smallest and largest number of items of a history."""


def invent_histories(item_ids: Sequence[str], users: int) -> pl.DataFrame:
    """Histories of items drawn at random, without repetition within a history.

    Returns
    -------
    columns of `INTERACTION_SCHEMA`
    """
    generator = np.random.default_rng(0)
    rows = [
        {"user_id": f"invented-{user}", "item_id": item_ids[item], "position": position}
        for user in range(users)
        for position, item in enumerate(
            generator.choice(len(item_ids), int(generator.integers(SHORTEST, LONGEST + 1)), replace=False)
        )
    ]
    return pl.DataFrame(rows, schema=INTERACTION_SCHEMA)
