"""What several files train recommenders on: two planted domains and IDs of their items."""

from __future__ import annotations

from pathlib import Path

import pytest
from recommender_planted import RINGS, write_ring_ids, write_rings


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rings(tmp_path_factory.mktemp("dataset"), RINGS)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ring_ids(tmp_path_factory.mktemp("tokenizer"), RINGS)
