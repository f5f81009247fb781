"""Made-up histories: what a bundle that is given away may carry as the histories on which its search was proven.

The stage `export` stores some of the histories it proves with, so that `unitok verify` can repeat the proof anywhere.
Those of the sample's ratings are not ours to give. Knows nothing of films.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from training.data.dataset import INTERACTION_SCHEMA

SHORTEST, LONGEST = 3, 12
"""Items of a history."""


def invent_histories(item_ids: Sequence[str], users: int) -> pl.DataFrame:
    """Histories of items drawn at random, none twice in one.

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
