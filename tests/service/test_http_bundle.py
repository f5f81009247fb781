"""The service on a real bundle, over real sockets: batches against singles, promises, restarts, replicas, processes."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import onnxruntime
import polars as pl
import pytest
from http_server import serving, until, wait_for, wait_until_ready
from redis_server import RedisServer

from service.errors import ConfigError, ProviderUnavailable
from service.opening import opened
from service.settings import Settings


@pytest.fixture(scope="module")
def items(tiny_bundle: Path) -> list[dict[str, Any]]:
    """The bundle's own catalogue."""
    return pl.read_parquet(tiny_bundle / "catalogue" / "items.parquet").to_dicts()


@contextmanager
def serve(bundle: Path, store: str) -> Iterator[httpx.Client]:
    settings = Settings(bundle=bundle, store=store, threads=1, refresh_seconds=0.05)
    with serving(settings) as (client, _):
        yield client


@pytest.fixture(scope="module")
def client(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with serve(tiny_bundle, f"embedded:{tmp_path_factory.mktemp('store')}") as client:
        yield client


def ref(item: dict[str, Any]) -> dict[str, str]:
    return {"domain": item["domain"], "item_id": item["item_id"]}


def test_the_bundles_catalogue_is_served_as_it_is(client: httpx.Client, items: list[dict[str, Any]]) -> None:
    counts = {found["domain"]: found["items"] for found in client.get("/domains").json()["domains"]}
    domains = [item["domain"] for item in items]
    assert counts == {domain: domains.count(domain) for domain in set(domains)}
    for item in items[::17]:
        found = client.get(f"/items/{item['domain']}/{item['item_id']}").json()
        assert found["title"] == item["title"]
        assert found["semantic_id"] == {name: item[name] for name in ("codes", "experts", "suffix")}


def test_a_tokenize_batch_gives_what_its_singles_give(client: httpx.Client) -> None:
    texts = [
        " ".join(["small", "green", "lamp", "for", "a", "desk"][: number % 6 + 1]) + f" {number}"
        for number in range(48)
    ]
    bodies = [{"domain": "unseen", "title": text, "categories": ["lamps"] * (at % 3)} for at, text in enumerate(texts)]
    batch = client.post("/tokenize", json={"items": bodies}).json()["items"]
    with ThreadPoolExecutor(8) as pool:
        singles = list(
            pool.map(lambda body: client.post("/tokenize", json={"items": [body]}).json()["items"][0], bodies)
        )
    for together, alone in zip(batch, singles, strict=True):
        assert together["semantic_id"] == alone["semantic_id"]
        assert together["quantization_error"] == pytest.approx(alone["quantization_error"], abs=1e-4)
        assert together["expert_weights"] == pytest.approx(alone["expert_weights"], abs=1e-4)
        assert sum(together["expert_weights"].values()) == pytest.approx(1, abs=1e-4)


def test_recommendations_together_equal_those_asked_alone(client: httpx.Client, items: list[dict[str, Any]]) -> None:
    bodies = [
        {
            "history": [ref(item) for item in items[at : at + 1 + at % 7]]
            + [{"domain": items[at]["domain"], "title": "raw"}],
            "k": 5,
            "beam_width": 10 + 5 * (at % 2),
        }
        for at in range(0, 60, 2)
    ]
    alone = [client.post("/recommend", json=body).json()["items"] for body in bodies]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda body: client.post("/recommend", json=body).json()["items"], bodies))
    for one, other in zip(alone, together, strict=True):
        assert [found["score"] for found in one] == pytest.approx([found["score"] for found in other], abs=1e-4)
        gaps = [first["score"] - second["score"] for first, second in pairwise(one)]
        if all(gap > 1e-3 for gap in gaps):
            assert [ref(found) for found in one[:-1]] == [ref(found) for found in other[:-1]]


def test_every_item_that_qualifies_comes_out_once(client: httpx.Client, items: list[dict[str, Any]]) -> None:
    domain = items[0]["domain"]
    mine = [ref(item) for item in items if item["domain"] == domain]
    for left in (1, 3, 10):
        body = {"history": mine[:2], "domains": [domain], "exclude": mine[left:], "exclude_history": False, "k": 10}
        found = [ref(item) for item in client.post("/recommend", json=body).json()["items"]]
        assert sorted(found, key=str) == sorted(mine[:left], key=str)
        allowed = {"history": mine[-2:], "allow": mine[:left], "k": 10}
        found = [ref(item) for item in client.post("/recommend", json=allowed).json()["items"]]
        assert sorted(found, key=str) == sorted(mine[:left], key=str)


def test_several_domains_are_searched_at_once(client: httpx.Client, items: list[dict[str, Any]]) -> None:
    domains = sorted({item["domain"] for item in items})
    body = {"history": [ref(items[0])], "domains": domains, "k": 100, "beam_width": 200}
    found = client.post("/recommend", json=body).json()["items"]
    assert len(found) == 100
    assert {item["domain"] for item in found} == set(domains)
    # The best of a joint search are the best of the single ones.
    single = [
        item
        for domain in domains
        for item in client.post("/recommend", json=body | {"domains": [domain]}).json()["items"]
    ]
    best = max(item["score"] for item in single)
    assert found[0]["score"] == pytest.approx(best, abs=1e-4)


def test_a_new_domain_needs_no_retraining(client: httpx.Client) -> None:
    names = [f"plant {number}" for number in range(20)]
    new = [{"domain": "plants", "item_id": name, "title": f"{name} with green leaves"} for name in names]
    assert client.post("/tokenize", json={"items": new, "register": True}).status_code == 200
    body = {"history": [{"domain": "plants", "item_id": "plant 0"}], "k": 19}
    found = client.post("/recommend", json=body).json()["items"]
    assert {item["item_id"] for item in found} == set(names[1:])


def test_a_wrong_embedding_width_names_the_right_one(client: httpx.Client) -> None:
    width = client.get("/bundle").json()["embedding_width"]
    right = {"domain": "plants", "embedding": [0.1] * width}
    assert client.post("/tokenize", json={"items": [right]}).status_code == 200
    wrong = {"domain": "plants", "embedding": [0.1] * (width + 1)}
    response = client.post("/tokenize", json={"items": [right, wrong]})
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "items[1].embedding"
    assert str(width) in response.json()["detail"]


def test_replicas_share_a_redis_store(
    tiny_bundle: Path, redis_server: RedisServer, items: list[dict[str, Any]]
) -> None:
    url = f"{redis_server.url}/7"
    with ExitStack() as stack:
        here, there = (stack.enter_context(serve(tiny_bundle, url)) for _ in range(2))
        created = here.put("/items/plants/fern", json={"title": "a fern"}).json()
        wait_for(there, "/items/plants/fern")
        assert there.get("/items/plants/fern").json() == created
        body = {"history": [ref(items[0])], "domains": ["plants"]}

        def recommended() -> list[str]:
            return [item["item_id"] for item in there.post("/recommend", json=body).json()["items"]]

        # A replica that follows knows an item a moment before its index does.
        until(lambda: recommended() == ["fern"])


@contextmanager
def unitok_serve(bundle: Path, store: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The real command; yields the process and what it says once it listens."""
    command = [sys.executable, "-m", "service.cli.main", "serve", "--bundle", str(bundle), "--port", "0"]
    environment = {**os.environ, "UNITOK_STORE": f"embedded:{store}", "UNITOK_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        said = ""
        while said.count("curl") < 2:
            line = process.stdout.readline()
            assert line, f"it ended: {process.communicate()[1]}"
            said += line
        yield process, said
    finally:
        process.kill()
        process.communicate()


def test_the_command_prints_curl_lines_that_work_and_what_it_registered_survives_kill_9(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    with unitok_serve(tiny_bundle, tmp_path) as (process, said):
        address = re.search(r"http://127\.0\.0\.1:\d+", said)
        assert address is not None
        with httpx.Client(base_url=address.group(), timeout=30) as client:
            wait_until_ready(client)
            answers = []
            for line in said.splitlines():
                if "curl" in line:
                    words = shlex.split(line)
                    answers.append(httpx.post(words[2], content=words[6], headers=dict([words[4].split(": ")])))
            assert [answer.status_code for answer in answers] == [200, 200]
            assert answers[0].json()["items"][0]["tokens"]
            assert len(answers[1].json()["items"]) == 5
            created = client.put("/items/plants/fern", json={"title": "a fern"})
            assert created.status_code == 201
            process.send_signal(signal.SIGKILL)
            process.wait(30)
    with unitok_serve(tiny_bundle, tmp_path) as (process, said):
        address = re.search(r"http://127\.0\.0\.1:\d+", said)
        assert address is not None
        assert httpx.get(address.group() + "/items/plants/fern").json() == created.json()
        asked = ask("recommend", "plants/fern", "--k", "3", "--url", address.group())
        answer = httpx.post(
            address.group() + "/recommend", json={"history": [{"domain": "plants", "item_id": "fern"}], "k": 3}
        )
        assert json.loads(asked.stdout) == answer.json()
        wrong = ask("recommend", "plants/none", "--url", address.group(), check=False)
        assert wrong.returncode == 1
        assert "answers 422: history: none of its items is known" in wrong.stderr
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def ask(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=check)


def test_the_commands_answer_as_the_server_does(
    tiny_bundle: Path, tmp_path: Path, client: httpx.Client, items: list[dict[str, Any]]
) -> None:
    here = ("--bundle", str(tiny_bundle), "--store", f"embedded:{tmp_path}")
    item = {"domain": "plants", "title": "a moss", "categories": ["low", "green"]}
    asked = ask(
        "tokenize", "--domain", "plants", "--title", "a moss", "--category", "low", "--category", "green", *here
    )
    expected = client.post("/tokenize", json={"items": [item]}).json()
    found = json.loads(asked.stdout)
    assert found["items"][0]["tokens"] == expected["items"][0]["tokens"]
    assert set(found) == set(expected)
    first = ref(items[0])
    asked = ask("recommend", f"{first['domain']}/{first['item_id']}", "--k", "4", *here)
    body = {"history": [first], "k": 4, "domains": [first["domain"]]}
    expected = client.post("/recommend", json=body).json()
    assert [ref(item) for item in json.loads(asked.stdout)["items"]] == [ref(item) for item in expected["items"]]


def test_what_cannot_be_opened_stops_the_start(tiny_bundle: Path, tmp_path: Path) -> None:
    nothing = ask("serve", "--bundle", str(tmp_path), "--store", f"embedded:{tmp_path}", check=False)
    assert nothing.returncode == 1
    assert nothing.stderr.startswith("unitok: ")
    assert "manifest.json: no such file" in nothing.stderr
    with (
        pytest.raises(ConfigError, match="must be embedded:FOLDER") as caught,
        opened(Settings(bundle=tiny_bundle, store="mongodb://user:hunter2@host")),
    ):
        pytest.fail("opened a store that does not exist")
    assert "hunter2" not in str(caught.value)


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this machine has the CUDA provider"
)
def test_a_provider_that_is_not_installed_stops_the_start(tiny_bundle: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(ProviderUnavailable, match="provider 'cuda' is not in this installation"),
        opened(Settings(bundle=tiny_bundle, store=f"embedded:{tmp_path}", provider="cuda")),
    ):
        pytest.fail("opened a bundle on a provider that is not there")
