"""The real command, killed with SIGKILL at fifty random moments, against both stores.

Most runs are forked from a process that has imported everything: starting Python fifty times is no part of the test.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import threading
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np
import pytest
from backfills import BROKEN, DOMAIN, MAPPING, command, content, write_items
from redis_server import RedisServer
from tiny_graphs import write_bundle

from service.bundle.files import Bundle
from service.catalogue.seeding import open_catalogue
from service.cli.backfill import backfill

ROWS = 3000
KILLS = 50
SMALL_BATCH = 2
"""Of the runs that are killed: a fast machine stores some dozen batches before the signal comes."""
IMPORTED = (
    "service.backfill.filling",
    "service.catalogue.opening",
    "service.engine.engine",
    "service.progress",
    "service.settings",
    "service.cli.backfill",
    "pytest.__main__",
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_items(tmp_path_factory.mktemp("items") / "items.jsonl", ROWS)


@pytest.fixture(params=["embedded", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "embedded":
        yield f"embedded:{tmp_path / 'store'}"
    else:
        with RedisServer(tmp_path / "server") as server:
            yield server.url


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServerContext]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNITOK_THREADS", "1")
        yield context


def test_killed_at_random_it_ends_as_if_it_had_not_been(
    items: Path, bundle: Bundle, url: str, forks: ForkServerContext
) -> None:
    store = open_catalogue(url, bundle)
    chance = random.Random(1)
    published: dict[str, int] = {}
    pause = threading.Event()
    options = {"bundle": bundle.folder, "store": url, "batch": SMALL_BATCH, "mapping": [MAPPING], "skip_bad": True}
    for kill in range(KILLS):
        # Some are killed before they did anything, and what is left is shared by the later ones.
        done = store.head()
        until = done + chance.randrange((ROWS - done) // (KILLS - kill + 2))
        process = forks.Process(target=backfill, args=(items, DOMAIN), kwargs=options)
        process.start()
        while store.head() < until:
            assert process.is_alive(), f"run {kill} ended before it could be killed, with {process.exitcode}"
            pause.wait(0.002)
        pause.wait(chance.uniform(0, 0.005))
        process.kill()
        process.join()
        stored = content(store)
        assert len(stored) < ROWS
        assert {item_id: stored[item_id].packed for item_id in published} == published, "an ID changed or was lost"
        published = {item_id: item.packed for item_id, item in stored.items()}

    run = command(items, bundle, url, "--skip-bad")
    out, err = run.communicate()
    assert (run.returncode, err) == (0, "")
    report = json.loads(out)
    assert (report["read"], report["created"] + report["already_there"]) == (ROWS, ROWS - len(BROKEN))
    assert report["already_there"] <= SMALL_BATCH * KILLS, "more than the batch that each kill interrupted was repeated"
    assert [example["row"] for example in report["rejected"]["malformed_row"]["examples"]] == [n + 1 for n in BROKEN]
    assert report["items_in_domain"] == ROWS - len(BROKEN) + bundle.manifest.catalogue.items

    stored = content(store)
    assert {item_id: stored[item_id].packed for item_id in published} == published
    assert set(stored) == {f"i{n}" for n in range(ROWS) if n not in BROKEN} | {"own-0", "own-1"}
    values = store.layout.unpack(np.array([item.packed for item in stored.values()], dtype=np.uint64))
    assert len(np.unique(values, axis=0)) == len(stored), "an ID was given twice"
    _, sizes = np.unique(values[:, :-1], axis=0, return_counts=True)
    assert sizes.max() > 10, "the data should make groups of equal codes"
    assert values[:, -1].max() == sizes.max() - 1, "a suffix was skipped, so an ID was lost"
    store.close()


def test_without_skip_bad_it_stops_with_the_place(items: Path, bundle: Bundle, tmp_path: Path) -> None:
    process = command(items, bundle, f"embedded:{tmp_path}")
    out, err = process.communicate()
    assert (process.returncode, out) == (1, "")
    assert f"unitok: {items}: row 101, not JSON" in err
    assert "Traceback" not in err
