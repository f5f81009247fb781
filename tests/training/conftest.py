"""What several files begin with: two planted domains and IDs of their items, and all stages before an export."""

from __future__ import annotations

from pathlib import Path

import pytest
from recommender_planted import RINGS, write_ring_ids, write_rings
from tiny import TinyStages, tiny_stages


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rings(tmp_path_factory.mktemp("dataset"), RINGS)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ring_ids(tmp_path_factory.mktemp("tokenizer"), RINGS)


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> TinyStages:
    return tiny_stages(tmp_path_factory.mktemp("stages"))
