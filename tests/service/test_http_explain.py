"""GET /explain: the item, what its stored content gives, and the items most alike, against sorting them all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
from http_server import serving, serving_dummy

from service.catalogue.embedded import EmbeddedStore
from service.catalogue.live import LiveCatalogue
from service.catalogue.records import ItemKey, NewItem
from service.semantic_ids import TokenLayout
from service.settings import Settings

CONTENT = {"title": "the red hammer", "brand": "winter", "categories": ["tools"], "description": "of the old city"}


@pytest.fixture(scope="module")
def client(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    settings = Settings(bundle=tiny_bundle, store=f"embedded:{tmp_path_factory.mktemp('store')}", threads=1)
    with serving(settings) as (client, _):
        yield client


def explain(client: httpx.Client, item: str, **query: Any) -> dict[str, Any]:
    response = client.get(f"/explain/{item}", params=query)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def parts(semantic_id: dict[str, Any]) -> list[int]:
    return [*semantic_id["codes"], *semantic_id["experts"], semantic_id["suffix"]]


def test_a_registered_item_is_explained_as_tokenizing_says(client: httpx.Client) -> None:
    assert client.put("/items/tools/a%2Fhammer", json=CONTENT).status_code == 201
    answer = explain(client, "tools/a%2Fhammer", count=3)
    said = client.post("/tokenize", json={"items": [CONTENT | {"domain": "tools"}]}).json()["items"][0]
    assert answer["computed"] == {
        "codes": said["semantic_id"]["codes"],
        "experts": said["semantic_id"]["experts"],
        "agrees": True,
        "quantization_error": pytest.approx(said["quantization_error"]),
        "expert_weights": pytest.approx(said["expert_weights"]),
    }
    stored = client.get("/items/tools/a%2Fhammer").json()
    assert {name: answer[name] for name in stored} == stored
    assert len(answer["alike"]) == 3


def test_items_alike_are_those_that_share_most_of_the_beginning(client: httpx.Client, tiny_bundle: Path) -> None:
    rows = pl.read_parquet(tiny_bundle / "catalogue" / "items.parquet").filter(pl.col("domain") == "books").to_dicts()
    values = {row["item_id"]: [*row["codes"], *row["experts"], row["suffix"]] for row in rows}
    for own in list(values)[::9]:

        def shared(item_id: str, own: str = own) -> int:
            equal = np.equal(values[item_id], values[own])
            return len(equal) if equal.all() else int(equal.argmin())

        expected = sorted((item for item in values if item != own), key=lambda item: (-shared(item), values[item]))
        found = explain(client, f"books/{own}", count=100)["alike"]
        assert [one["item_id"] for one in found] == expected
        assert [one["shared"] for one in found] == [shared(item) for item in expected]
        assert all(parts(one["semantic_id"]) == values[one["item_id"]] for one in found)
        assert explain(client, f"books/{own}", count=4)["alike"] == found[:4]


def test_where_the_expert_comes_first_it_is_the_first_that_is_shared(tmp_path: Path) -> None:
    layout = TokenLayout(levels=2, codes=4, experts=3, experts_per_item=1, suffixes=4, expert_first=True)
    store = EmbeddedStore(tmp_path, "dummy", 1, layout)
    store.finish_seed()
    items = (("own", (1, 2), 0), ("same codes", (1, 2), 1), ("same expert", (3, 3), 0))
    store.register([NewItem("films", name, codes, (expert,)) for name, codes, expert in items])
    found = LiveCatalogue(store).alike(ItemKey("films", "own"), 2)
    assert [(one.entry.item_id, one.shared) for one in found] == [("same expert", 1), ("same codes", 0)]
    store.close()


def test_an_answer_says_when_the_stored_content_gives_another_id(client: httpx.Client) -> None:
    assert client.put("/items/tools/renamed", json=CONTENT).status_code == 201
    published = client.get("/items/tools/renamed").json()["semantic_id"]
    assert client.put("/items/tools/renamed", json={"title": "chess of the forest"}).status_code == 200
    answer = explain(client, "tools/renamed", count=0)
    assert (answer["semantic_id"], answer["alike"]) == (published, [])
    assert answer["computed"]["agrees"] is False
    computed = answer["computed"]["codes"] + answer["computed"]["experts"]
    assert computed != published["codes"] + published["experts"]


def test_an_item_that_came_as_an_embedding_has_nothing_to_compute_from(client: httpx.Client) -> None:
    assert client.put("/items/vectors/one", json={"embedding": [0.1] * 24}).status_code == 201
    answer = explain(client, "vectors/one")
    assert (answer["computed"], answer["alike"]) == (None, [])


def test_what_cannot_be_explained_is_a_problem(tmp_path: Path) -> None:
    with serving_dummy(tmp_path) as client:
        assert client.put("/items/films/a", json={"title": "A"}).status_code == 201
        assert client.get("/explain/films/none").json()["type"] == "urn:unitok:problem:item-not-found"
        assert client.get("/explain/nowhere/a").status_code == 404
        for count in (-1, 101, "x"):
            assert client.get("/explain/films/a", params={"count": count}).status_code == 422
        assert client.delete("/items/films/a").status_code == 204
        assert client.get("/explain/films/a").status_code == 404
