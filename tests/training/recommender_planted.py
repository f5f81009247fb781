"""Planted data with a known answer: users walk a ring of items, each item followed by the next one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from service.semantic_ids import IntArray, TokenLayout
from training.data.dataset import INTERACTION_SCHEMA, ITEM_SCHEMA, DomainData, write_domain, write_index
from training.ids.table import DomainIds, write_ids
from training.networks.t5 import T5Settings
from training.recommender.corpus import Corpus, build_corpus
from training.recommender.parameters import RecommenderParameters
from training.stage import FIGURES

LAYOUT = TokenLayout(levels=2, codes=8, experts=3, experts_per_item=1, suffixes=4)
TINY = T5Settings(d_model=32, d_ff=64, d_kv=8, heads=4, encoder_layers=1, decoder_layers=1, dropout=0.0)
RINGS = ("ring", "other")
"""Domains of the fixtures `dataset` and `tokenizer`."""


def random_values(layout: TokenLayout, items: int, rng: np.random.Generator) -> IntArray:
    """Distinct semantic IDs, int32 [items, L + N + 1]; equal codes differ by the suffix, counted from 0."""
    values = np.stack([rng.integers(0, size, items) for size in layout.position_sizes], axis=1).astype(np.int32)
    seen: dict[tuple[int, ...], int] = {}
    for row in values:
        key = tuple(row[:-1].tolist())
        row[-1] = seen.get(key, 0)
        seen[key] = int(row[-1]) + 1
    assert values[:, -1].max() < layout.suffixes
    return values


def ring_domain(name: str, items: int, users: int, rng: np.random.Generator) -> DomainData:
    """A domain whose users walk from a random item to the next ones."""
    lengths = rng.integers(4, 9, users)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    walks = [(rng.integers(items) + np.arange(length)) % items for length in lengths]
    return DomainData(
        name,
        pl.DataFrame({"item_id": [f"{name}-{number}" for number in range(items)]}),
        [f"user-{number}" for number in range(users)],
        np.concatenate(walks).astype(np.int32),
        starts.astype(np.int64),
    )


def ring_corpus(
    items: int = 24, users: int = 120, domains: tuple[str, ...] = ("ring",), layout: TokenLayout = LAYOUT
) -> Corpus:
    """Some ring domains with random IDs."""
    rng = np.random.default_rng(0)
    rings = [ring_domain(name, items, users, rng) for name in domains]
    return build_corpus(rings, {name: random_values(layout, items, rng) for name in domains}, layout, 20)


def write_dataset(folder: Path, *domains: DomainData) -> Path:
    """The dataset of these domains, as `prepare` writes one; columns that their items lack are empty."""
    summaries = []
    for domain in domains:
        absent = [pl.lit(None).alias(column) for column in ITEM_SCHEMA.names() if column not in domain.items.columns]
        rows = [
            (user_id, domain.item_ids[item], position, None, None)
            for user, user_id in enumerate(domain.user_ids)
            for position, item in enumerate(domain.history(user).tolist())
        ]
        interactions = pl.DataFrame(rows, schema=INTERACTION_SCHEMA, orient="row")
        summaries.append(write_domain(folder, domain.name, domain.items.with_columns(*absent), interactions))
    write_index(folder, summaries)
    return folder


def write_rings(folder: Path, names: Sequence[str]) -> Path:
    """The dataset of some ring domains of 24 items."""
    rng = np.random.default_rng(0)
    return write_dataset(folder, *(ring_domain(name, 24, 60, rng) for name in names))


def write_ring_ids(folder: Path, names: Sequence[str], seed: int = 1) -> Path:
    """The folder of a tokenizer that gave the items of such domains random IDs, as far as a recommender reads it."""
    rng, ids = np.random.default_rng(seed), []
    for name in names:
        values = random_values(LAYOUT, 24, rng)
        item_ids = [f"{name}-{row}" for row in range(24)]
        ids.append(DomainIds(name, item_ids, values[:, :2], values[:, 2:3], values[:, 3]))
    write_ids(folder, ids)
    layout = {"levels": 2, "codes": 8, "experts": 3, "experts_per_item": 1, "suffixes": 4}
    (folder / FIGURES).write_text(json.dumps({"layout": layout}))
    return folder


def tiny_parameters(**changes: object) -> RecommenderParameters:
    """Parameters for a training of seconds."""
    values: dict[str, object] = {
        "network": TINY.model_dump(),
        "epochs": 2,
        "batch_tokens": 1024,
        "learning_rate": 5e-3,
        "warmup_steps": 10,
        "validation_users": 40,
        "validation_beams": 10,
        "seed": 3,
    }
    return RecommenderParameters.model_validate(values | changes)
