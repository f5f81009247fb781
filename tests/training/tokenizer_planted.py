"""A small prepared dataset with embeddings, and the parameters of a small tokenizer for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from training.data.dataset import INTERACTION_SCHEMA, write_domain, write_index
from training.tokenizer.configuration import StageParameters, stage_parameters

WIDTH = 10
ITEMS = {"books": 90, "films": 70, "songs": 40}


def write_prepared(tmp_path: Path) -> tuple[Path, Path]:
    """A dataset of three domains and its embeddings; the last two books are the same."""
    rng = np.random.default_rng(0)
    dataset, embeddings = tmp_path / "dataset", tmp_path / "embeddings"
    embeddings.mkdir()
    summaries = []
    for name, count in ITEMS.items():
        titles = [f"{name} {row}" for row in range(count)]
        rows = (rng.normal(size=WIDTH) * 3 + rng.normal(size=(count, WIDTH))).astype(np.float32)
        if name == "books":
            titles[-1] = titles[-2]
            rows[-1] = rows[-2]
        items = pl.DataFrame({"item_id": [f"{name}-{row}" for row in range(count)], "title": titles})
        items = items.with_columns(
            pl.lit(None).alias(column) for column in ("brand", "categories", "description", "price")
        )
        summaries.append(write_domain(dataset, name, items, INTERACTION_SCHEMA.to_frame()))
        np.save(embeddings / f"{name}.npy", rows / np.linalg.norm(rows, axis=1, keepdims=True))
    write_index(dataset, summaries)
    return dataset, embeddings


def small(**changes: Any) -> StageParameters:
    values = {
        "levels": 2,
        "codes": 16,
        "latent_width": 4,
        "hidden": (16,),
        "batch_size": 32,
        "warmup_epochs": 2,
        "epochs": 2,
        "threads": 1,
    }
    return stage_parameters({**values, **changes}, "test")
