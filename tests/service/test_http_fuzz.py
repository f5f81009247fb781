"""Whatever JSON arrives, the answer is a result or a problem that says what is wrong; never a failure of the server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from http_server import serving_dummy
from hypothesis import given, settings
from hypothesis import strategies as st

from service.settings import Settings

KEYS = [
    "items", "history", "item_id", "domain", "title", "categories", "embedding", "price", "register", "k", "domains",
    "beam_width", "exclude_history", "exclude", "allow", "description", "brand",
]  # fmt: skip

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.sampled_from(["films", "a", "b"]),
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=12,
)
names = st.sampled_from(["films", "games", "new"]) | st.text(st.characters(codec="utf-8"), max_size=5)
item = st.fixed_dictionaries(
    {"domain": names},
    optional={
        "item_id": st.sampled_from(["a", "b"]) | names,
        "title": names,
        "embedding": st.lists(st.floats(-1e40, 1e40) | st.integers(-5, 5), min_size=3, max_size=5),
        "price": st.floats(-1, 10),
    },
)
tokenize = st.fixed_dictionaries({"items": st.lists(item, max_size=3)}, optional={"register": st.booleans()})
reference = st.fixed_dictionaries({"domain": names, "item_id": st.sampled_from(["a", "b"]) | names})
recommend = st.fixed_dictionaries(
    {"history": st.lists(item, max_size=4)},
    optional={
        "k": st.integers(0, 60),
        "beam_width": st.integers(0, 60),
        "domains": st.lists(names, max_size=2),
        "exclude": st.lists(reference, max_size=3),
        "allow": st.lists(reference, max_size=3),
        "exclude_history": st.booleans(),
    },
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    # Overload has tests of its own; here a processor that other programs hold must not look like it.
    patient = Settings(max_wait_seconds=600, overload_patience=1000)
    with serving_dummy(tmp_path_factory.mktemp("fuzz"), patient) as client:
        for path in ("films/a", "films/b", "games/a"):
            client.put(f"/items/{path}", json={"title": path})
        yield client


@given(body=anything | tokenize)
@settings(max_examples=150)
def test_tokenize_never_fails(client: httpx.Client, body: Any) -> None:
    response = client.post("/tokenize", json=body)
    assert response.status_code in {200, 409, 422}
    if response.status_code == 200:
        assert [answer["domain"] for answer in response.json()["items"]] == [item["domain"] for item in body["items"]]
    else:
        assert response.json()["detail"]


@given(body=anything | recommend)
@settings(max_examples=150)
def test_recommend_never_fails_and_keeps_its_promises(client: httpx.Client, body: Any) -> None:
    response = client.post("/recommend", json=body)
    assert response.status_code in {200, 422}
    if response.status_code == 422:
        assert response.json()["detail"]
        return
    keys = [(found["domain"], found["item_id"]) for found in response.json()["items"]]
    assert len(keys) == len(set(keys)) <= body.get("k", 10)
    named = {name: {(one["domain"], one["item_id"]) for one in body.get(name, ())} for name in ("exclude", "allow")}
    assert not set(keys) & named["exclude"]
    if "allow" in body:
        assert set(keys) <= named["allow"]
    if "domains" in body:
        assert {domain for domain, _ in keys} <= set(body["domains"])
    for domain, item_id in keys:
        assert client.get(f"/items/{domain}/{item_id}").status_code in {200, 404, 422}
