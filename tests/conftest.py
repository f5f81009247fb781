"""Fixtures for every test; being here also lets tests import the helpers beside it (`from redis_server import ...`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import settings
from places import Place
from redis_server import RedisServer

from service.catalogue import redis_store

# By default an example that takes 0.2 s is a failure; how fast the machine is must not decide.
settings.register_profile("any speed", deadline=None)
settings.load_profile("any speed")


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


@pytest.fixture(params=["graph", "torch"])
def searched_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Validation while training searches by the served graph, and then by torch, as it does on a GPU."""
    if request.param == "torch":
        from training.recommender import validation
        from training.recommender.searching import by_torch

        monkeypatch.setattr(
            validation, "searching", lambda model, layout, index, beams: nullcontext(by_torch(model, index, beams))
        )
    return str(request.param)


@pytest.fixture(params=["embedded", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Where a test's own stores live, once of each kind."""
    if request.param == "embedded":
        found = Place(f"embedded:{tmp_path / 'catalogue'}", None)
    else:
        found = Place(request.getfixturevalue("redis_server").url, request.getfixturevalue("redis_server"))
    yield found
    found.close()


@pytest.fixture
def url(tmp_path: Path) -> str:
    """An embedded store of the test's own."""
    return f"embedded:{tmp_path}"


@pytest.fixture
def few_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a store in Redis reads every bucket; a few are enough for a few items."""
    monkeypatch.setattr(redis_store, "BUCKETS", 64)


@pytest.fixture(params=["embedded", "redis"])
def both_urls(request: pytest.FixtureRequest, tmp_path: Path, few_buckets: None) -> str:
    """A store of each kind; names in it must be the test's own."""
    if request.param == "embedded":
        return f"embedded:{tmp_path}"
    server: RedisServer = request.getfixturevalue("redis_server")
    return server.url


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of the test's own, to be killed and filled."""
    with RedisServer(tmp_path / "server") as server:
        yield server
