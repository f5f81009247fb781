"""The real command, killed with SIGKILL at random moments, against both stores."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from redis_server import RedisServer
from tiny_graphs import WORDS, write_bundle

from service.bundle.files import Bundle
from service.catalogue.opening import open_catalogue
from service.catalogue.store import CatalogueStore, StoredItem

ROWS = 3000
KILLS = 2


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Items of which many have equal codes, and a few are no items."""
    chance = random.Random(0)
    path = tmp_path_factory.mktemp("items") / "items.jsonl"
    lines = [json.dumps({"sku": f"i{n}", "title": " ".join(chance.choices(WORDS, k=3))}) for n in range(ROWS)]
    for place in (100, 1500, 2999):
        lines[place] = "broken"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(params=["embedded", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "embedded":
        yield f"embedded:{tmp_path / 'store'}"
    else:
        with RedisServer(tmp_path / "server") as server:
            yield server.url


def command(items: Path, bundle: Bundle, url: str, *more: str) -> subprocess.Popen[str]:
    arguments = [str(items), "--domain", "films", "--bundle", str(bundle.folder), "--store", url, "--batch", "8", *more]
    return subprocess.Popen(
        [sys.executable, "-m", "service.cli.main", "backfill", *arguments, "--map", "item_id=sku"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "UNITOK_THREADS": "1"},
    )


def content(store: CatalogueStore) -> dict[str, StoredItem]:
    return {item.item_id: item for batch in store.scan() for item in batch}


def test_killed_at_random_it_ends_as_if_it_had_not_been(items: Path, bundle: Bundle, url: str) -> None:
    store = open_catalogue(url, bundle)
    chance = random.Random(1)
    published: dict[str, int] = {}
    pause = threading.Event()
    for kill in range(KILLS):
        until = store.head() + chance.randrange(ROWS // 4, ROWS // 3)
        process = command(items, bundle, url, "--skip-bad")
        while store.head() < until:
            assert process.poll() is None, f"run {kill} ended before it could be killed: {process.communicate()}"
            pause.wait(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        stored = content(store)
        assert len(stored) < ROWS
        assert {item_id: stored[item_id].packed for item_id in published} == published, "an ID changed or was lost"
        published = {item_id: item.packed for item_id, item in stored.items()}

    process = command(items, bundle, url, "--skip-bad")
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    report = json.loads(out)
    assert (report["read"], report["created"] + report["already_there"]) == (ROWS, ROWS - 3)
    assert report["already_there"] <= 8 * KILLS, "more than the batch that each kill interrupted was repeated"
    assert [example["row"] for example in report["rejected"]["malformed_row"]["examples"]] == [101, 1501, 3000]
    assert report["items_in_domain"] == ROWS - 3 + bundle.manifest.catalogue.items

    stored = content(store)
    assert {item_id: stored[item_id].packed for item_id in published} == published
    assert set(stored) == {f"i{n}" for n in range(ROWS) if n not in (100, 1500, 2999)} | {"own-0", "own-1"}
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
