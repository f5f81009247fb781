"""A planted experiment: users walk a ring of items whose vectors tell them apart; the next item is the answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from recommender_planted import TINY, ring_domain, write_dataset

from service.cli.main import build
from training.laboratory.running import Workplace

ITEMS, USERS = 36, 240
TWINS = 4
WORDS = ("lamp", "chair", "spoon", "kettle", "carpet", "mirror", "basket", "pillow")
EXPERIMENT = """
protocol = "planted"
domains = ["ring"]

[evaluation]
beams = 10

[[tokenizers]]
name = "unitok"
without_suffix = true
[tokenizers.set]
levels = 2
codes = 16
latent_width = 4
hidden = [16]
batch_size = 48
warmup_epochs = 20
epochs = 5

[[recommenders]]
name = "t5"
[recommenders.set]
epochs = 20
patience = 20
batch_tokens = 1024
learning_rate = 5e-3
warmup_steps = 10
validation_users = 40
validation_beams = 10
checkpoint_seconds = 1
network = {network}
"""


def planted(folder: Path) -> Workplace:
    """The dataset, its vectors and a place to work in, below `folder`."""
    rng = np.random.default_rng(0)
    domain = ring_domain("ring", ITEMS, USERS, rng)
    titles = pl.Series("title", [f"{WORDS[row % len(WORDS)]} number {row}" for row in range(ITEMS)])
    dataset, embeddings = folder / "dataset", folder / "embeddings"
    write_dataset(dataset, replace(domain, items=domain.items.with_columns(titles)))
    embeddings.mkdir()
    vectors = rng.normal(size=(ITEMS, 12)).astype(np.float32)
    vectors[-TWINS:] = vectors[:TWINS]  # so that suffixes occur
    np.save(embeddings / "ring.npy", vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    return Workplace(dataset, embeddings, folder / "work", threads=1)


def experiment_file(folder: Path) -> Path:
    """The experiment as a file."""
    # Strings, numbers and truths are written alike in JSON and TOML.
    network = ", ".join(f"{name} = {json.dumps(value)}" for name, value in TINY.model_dump().items())
    path = folder / "planted.toml"
    path.write_text(EXPERIMENT.replace("{network}", f"{{ {network} }}"), encoding="utf-8")
    return path


def in_this_process(arguments: Sequence[str], _: int) -> None:
    """Run `unitok` as the command line does, without the seconds that another interpreter takes to start."""
    build()(list(arguments), standalone_mode=False)
