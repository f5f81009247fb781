"""Fixtures for every test; being here also lets tests import the helpers beside it (`from redis_server import ...`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis_server import RedisServer


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A real server with a password, shared by all tests: keep to names of your own."""
    with RedisServer(tmp_path_factory.mktemp("valkey"), password="se-cret") as server:
        yield server


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete small bundle made by the real stages; its files must not be changed."""
    from tiny import tiny_bundle as make

    return make(tmp_path_factory.mktemp("tiny"))
