"""Planted data for the baselines: users who keep to one block of items, and the walk around a ring as a corpus."""

from __future__ import annotations

import numpy as np
import polars as pl
from recommender_planted import ring_domain

from training.baselines.corpus import Corpus
from training.data.dataset import DomainData

BLOCK = 12
"""Items of a block."""


def domain_of(name: str, items: int, histories: list[list[int]]) -> DomainData:
    """A domain of so many items with these histories."""
    return DomainData(
        name,
        pl.DataFrame({"item_id": [f"{name}-{number}" for number in range(items)]}),
        [f"user-{number}" for number in range(len(histories))],
        np.asarray([item for history in histories for item in history], dtype=np.int32),
        np.cumsum([0, *(len(history) for history in histories)]).astype(np.int64),
    )


def block_corpus(blocks: int = 5, users: int = 150) -> Corpus:
    """Every user takes nine of the twelve items of one block, in random order; seven of them are for training."""
    rng = np.random.default_rng(0)
    histories = [
        (BLOCK * (user % blocks) + rng.permutation(BLOCK)[:9]).tolist()  # no item twice
        for user in range(users)
    ]
    return Corpus.of(domain_of("blocks", BLOCK * blocks, histories), 20)


def ring_corpus(items: int = 30, users: int = 150) -> Corpus:
    """Every user walks the ring: the next item is the one after the last."""
    return Corpus.of(ring_domain("ring", items, users, np.random.default_rng(0)), 20)
