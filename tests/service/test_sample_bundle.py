"""The bundle that is shipped: whole, small, proven, free of other people's data, and sensible."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
from http_server import serving
from structlog.testing import capture_logs

from service.bundle.files import Bundle
from service.bundle.sample import ProvenSample
from service.catalogue.records import ItemKey
from service.opening import opened
from service.settings import read_settings
from service.verifying import verify

SAMPLE = Path(__file__).parents[2] / "models" / "sample"
MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    store = f"embedded:{tmp_path_factory.mktemp('catalogue')}"
    settings = read_settings(bundle=SAMPLE, store=store)
    with serving(settings) as (client, _):
        yield client


def recommended(client: httpx.Client, body: dict[str, Any]) -> list[str]:
    response = client.post("/recommend", json=body)
    assert response.status_code == 200, response.text
    return [item["item_id"] for item in response.json()["items"]]


def test_it_is_small_and_does_what_was_proven() -> None:
    assert [check.name for check in verify(SAMPLE, threads=1)][:2] == ["hashes", "signatures"]
    assert sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file()) < 32 * MEBIBYTE


def test_it_holds_no_history_of_a_person() -> None:
    # Invented histories are uniform over the catalogue; people's are not: see training/sample/invented.py.
    bundle = Bundle.open(SAMPLE)
    sample = ProvenSample.load(bundle.path("verification.npz"))
    assert set(sample.domain.tolist()) == {"movies", "dishes"}
    assert set(pl.read_parquet(bundle.path("catalogue/items.parquet")).columns) == {
        "domain",
        "item_id",
        "title",
        "codes",
        "experts",
        "suffix",
    }
    graphs = b"".join(path.read_bytes() for path in SAMPLE.glob("*.onnx"))
    for trace in (b"stack_trace", b"site-packages", b"/home/", b"/tmp/"):
        assert trace not in graphs


def test_after_toy_story_come_films_that_fit(client: httpx.Client) -> None:
    found = recommended(client, {"history": [{"item_id": "toy-story-1995", "domain": "movies"}], "k": 20})
    family = {
        "a-bugs-life-1998",
        "aladdin-1992",
        "beauty-and-the-beast-1991",
        "finding-nemo-2003",
        "monsters-inc-2001",
        "shrek-2001",
        "the-incredibles-2004",
        "the-lion-king-1994",
        "toy-story-2-1999",
        "toy-story-3-2010",
        "babe-1995",
        "up-2009",
        "ratatouille-2007",
    }
    assert len(set(found)) == 20
    assert "toy-story-1995" not in found
    assert len(family & set(found)) >= 3, found


def test_a_domain_that_was_never_trained_on_answers(client: httpx.Client) -> None:
    cakes = recommended(client, {"history": [{"title": "Chocolate cake", "domain": "dishes"}], "k": 10})
    noodles = recommended(client, {"history": [{"title": "Spaghetti with tomato sauce", "domain": "dishes"}], "k": 10})
    assert len(set(cakes)) == len(set(noodles)) == 10
    assert {"apple-strudel", "cheesecake"} <= set(cakes[:5]), cakes
    assert {"spaghetti-carbonara", "pesto-alla-genovese"} <= set(noodles[:5]), noodles


def test_different_histories_give_different_lists(client: httpx.Client) -> None:
    lists = [
        recommended(client, {"history": [{"item_id": item, "domain": "movies"}], "k": 10})
        for item in ("toy-story-1995", "alien-1979", "the-godfather-1972", "titanic-1997")
    ]
    shared = [len(set(one) & set(other)) for place, one in enumerate(lists) for other in lists[:place]]
    assert np.mean(shared) < 6


def test_generations_that_share_an_index_folder_each_map_their_own(tmp_path: Path) -> None:
    second = tmp_path / "second"
    shutil.copytree(SAMPLE, second)
    manifest = json.loads((second / "manifest.json").read_text())
    (second / "manifest.json").write_text(json.dumps({**manifest, "generation": manifest["generation"] + 1}))
    store, folder = f"embedded:{tmp_path / 'store'}", tmp_path / "index"
    rebuilt = []
    for bundle in (SAMPLE, second) * 2:
        with opened(read_settings(bundle=bundle, store=store, index_folder=folder, threads=1)) as service:
            rebuilt.append(service.catalogue.rebuilt is not None)
    assert rebuilt == [True, True, False, False]
    assert sorted(path.name for path in folder.iterdir()) == ["sample-2", "sample-3"]


def test_a_service_ends_well_where_its_index_cannot_be_saved(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    settings = read_settings(bundle=SAMPLE, store=f"embedded:{tmp_path / 'store'}", index_folder=folder, threads=1)
    with capture_logs() as logs, opened(settings) as service:
        shutil.rmtree(folder)
        folder.write_text("a file")
        service.catalogue.delete(ItemKey("movies", "alien-1979"))
    (said,) = [line for line in logs if line["event"] == "index could not be saved"]
    assert "cannot be written to" in said["reason"]
