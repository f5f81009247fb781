"""API keys and their rates over HTTP: who may do what, what a refusal says, and that no key is ever written down."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from dummy_engine import DummyEngine
from http_server import Event, serving_dummy
from proxy import Proxy
from redis_server import RedisServer

from service.access.keys import KeyScope, NewKey, new_key
from service.http.authentication import OPEN_PATHS
from service.overload.body_memory import SMALL_BYTES
from service.settings import Settings

READER, LOADER = new_key("shop", [KeyScope.READ]), new_key("loader", [KeyScope.REGISTER])
ADMIN = new_key("operator", [KeyScope.ADMIN])
KEYS = f"{READER.entry}; {LOADER.entry}; {ADMIN.entry}"
ITEM = {"item_id": "a", "domain": "films", "title": "A"}
HISTORY = [{"domain": "films", "item_id": "a"}]


@contextmanager
def serve(
    folder: Path, log: list[Event] | None = None, engine: DummyEngine | None = None, **more: Any
) -> Iterator[httpx.Client]:
    with serving_dummy(folder, Settings(**more), engine, log) as client:
        yield client


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("locked")
    with serve(folder, api_keys=KEYS, store=f"embedded:{folder}") as client:
        assert client.put("/items/films/a", json={"title": "A"}, headers=bearer(LOADER)).status_code == 201
        yield client


def bearer(key: NewKey) -> dict[str, str]:
    return {"Authorization": f"Bearer {key.secret}"}


def check_refusal(response: httpx.Response, status: int, kind: str, *parts: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert problem["type"] == f"urn:unitok:problem:{kind}"
    assert problem["request_id"] == response.headers["X-Request-ID"]
    assert all(part in problem["detail"] for part in parts), problem["detail"]


def test_every_documented_path_but_the_open_ones_asks_for_a_key(locked: httpx.Client) -> None:
    schema = locked.get("/openapi.json").json()
    asked = 0
    for path, operations in schema["paths"].items():
        url = path.replace("{domain}", "films").replace("{item_id}", "a")
        for method, operation in operations.items():
            response = locked.request(method, url)
            if path in OPEN_PATHS:
                assert response.status_code == 200, path
                assert "security" not in operation
            else:
                check_refusal(response, 401, "unauthenticated")
                assert [set(way) for way in operation["security"]] == [{"API key"}]
                assert {"401", "403", "429"} <= set(operation["responses"])
                asked += 1
    assert asked >= 7
    assert schema["components"]["securitySchemes"]["API key"]["scheme"] == "bearer"
    check_refusal(locked.get("/no-such-path"), 401, "unauthenticated")
    assert locked.get("/docs").status_code == 200


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", READER.secret, f"Basic {READER.secret}", "Bearer utk_wrong", "Bearer caf\xe9"],
)
def test_without_a_known_key_the_answer_is_401(locked: httpx.Client, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization.encode("latin-1")}
    response = locked.post("/recommend", json={"history": HISTORY}, headers=headers)  # type: ignore[arg-type]
    check_refusal(response, 401, "unauthenticated")
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="unitok"'


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER  "])
def test_the_scheme_is_written_as_anybody_likes(locked: httpx.Client, scheme: str) -> None:
    """In any case, and with one space behind it or more (RFC 9110, 11.1 and 11.4)."""
    assert locked.get("/domains", headers={"Authorization": scheme + READER.secret}).status_code == 200


def test_the_body_of_a_stranger_is_neither_parsed_nor_kept(locked: httpx.Client) -> None:
    for content in (b"{" * 10**7, iter([b"{" * 10**6] * 10)):
        response = locked.post("/recommend", content=content)
        check_refusal(response, 401, "unauthenticated")
        assert response.headers["Connection"] == "close"
    assert "Connection" not in locked.get("/domains").headers, "there is nothing to be left unread"


@pytest.mark.parametrize("path", sorted(OPEN_PATHS))
def test_where_no_key_is_asked_for_a_body_must_be_small(locked: httpx.Client, path: str) -> None:
    """Or strangers would take the room of all bodies, and callers with a key would be refused."""
    json = {"Content-Type": "application/json"}
    for content in (b" " * (SMALL_BYTES + 1), iter([b" " * SMALL_BYTES] * 2)):
        check_refusal(locked.post(path, content=content, headers=json), 413, "body-too-large", str(SMALL_BYTES))
    check_refusal(locked.post(path, content=b" " * SMALL_BYTES, headers=json), 405, "method-not-allowed")
    assert locked.post("/recommend", content=b" " * (SMALL_BYTES + 1), headers=json | bearer(READER)).status_code == 400


def test_a_key_may_do_what_its_scopes_name(locked: httpx.Client) -> None:
    def status(key: NewKey, method: str, path: str, body: Any = None) -> int:
        return locked.request(method, path, json=body, headers=bearer(key)).status_code

    register, plain = {"items": [ITEM], "register": True}, {"items": [ITEM]}
    reading = [("GET", "/domains", None), ("GET", "/bundle", None), ("GET", "/items/films/a", None)]
    reading += [("POST", "/recommend", {"history": HISTORY}), ("POST", "/tokenize", plain)]
    writing = [("POST", "/tokenize", register), ("PUT", "/items/films/b", {"title": "B"})]
    writing += [("DELETE", "/items/films/b", None)]
    for call in reading:
        assert (status(READER, *call), status(LOADER, *call)) == (200, 403), call
    for call in writing:
        assert status(READER, *call) == 403, call
        assert status(LOADER, *call) in {200, 201, 204}, call
    switching = ("PUT", "/generations/current", {"generation": 3})
    assert [status(key, *switching) for key in (READER, LOADER, ADMIN)] == [403, 403, 200]
    for call in (*reading, *writing):
        assert status(ADMIN, *call) == 403, "a scope includes no other"
    check_refusal(locked.put("/generations/current", json={"generation": 3}), 401, "unauthenticated")
    response = locked.post("/tokenize", json=register, headers=bearer(READER))
    check_refusal(response, 403, "forbidden", "'shop' has the scopes read, but this needs register")


def test_a_service_without_keys_is_open(tmp_path: Path) -> None:
    with serve(tmp_path) as client:
        assert client.put("/items/films/a", json={"title": "A"}).status_code == 201
        assert client.get("/domains", headers={"Authorization": "Bearer whatever"}).status_code == 200
        for _ in range(2):
            paths = client.get("/openapi.json").json()["paths"]
            assert paths["/domains"]["get"]["security"] == [{"API key": ["read"]}, {}], "a key is optional"


def test_keys_come_from_a_file_too(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(READER.entry + "\n")
    with serve(tmp_path / "store", api_keys_file=file) as client:
        assert client.get("/domains").status_code == 401
        assert client.get("/domains", headers=bearer(READER)).status_code == 200


def test_no_key_is_written_down(tmp_path: Path) -> None:
    log: list[Event] = []
    wrong = new_key("x", [KeyScope.READ]).secret
    settings: dict[str, Any] = {"api_keys": KEYS, "api_key": READER.secret}
    with serve(tmp_path, log, **settings) as client:
        client.get("/domains", headers=bearer(READER))
        client.get("/domains", headers=bearer(LOADER))
        client.get("/domains", headers={"Authorization": f"Bearer {wrong}"})
        metrics = client.get("/metrics").text
    written = repr(log) + metrics + repr(Settings(**settings)) + Settings(**settings).model_dump_json()
    for secret in (READER.secret, LOADER.secret, wrong, READER.entry.split()[2]):
        assert secret not in written
    lines = [event for event in log if event["event"] == "request" and event["path"] == "/domains"]
    assert [(line["status"], line.get("key"), line.get("problem")) for line in lines] == [
        (200, "shop", None),
        (403, "loader", "forbidden"),
        (401, None, "unauthenticated"),
    ]
    assert 'unitok_rejected_total{reason="unauthenticated"} 1.0' in metrics
    assert 'unitok_problems_total{type="forbidden"} 1.0' in metrics
    assert 'unitok_key_items_total{key="shop"} 1.0' in metrics


def test_the_rate_of_a_key_counts_items(tmp_path: Path) -> None:
    with serve(tmp_path, api_keys=KEYS, rate_items_per_second=0.01, rate_burst_seconds=1000) as client:
        body = {"items": [{"domain": "d", "title": str(number)} for number in range(6)]}
        first = client.post("/tokenize", json=body, headers=bearer(READER))
        assert first.status_code == 200
        assert first.headers["RateLimit-Policy"] == '"items";q=10;w=1000'
        assert first.headers["RateLimit"].startswith('"items";r=4;t=')
        refused = client.post("/tokenize", json=body, headers=bearer(READER))
        check_refusal(refused, 429, "rate-limited", "0.01 items a second", "this request is 6")
        assert 150 <= int(refused.headers["Retry-After"]) <= 200
        assert refused.headers["RateLimit"].startswith('"items";r=4;t=')
        # What is wrong costs nothing, however large it is, another key has its own rate, and probes have none.
        assert client.post("/tokenize", json={"items": []}, headers=bearer(READER)).status_code == 422
        many = {"items": [{"domain": "d", "title": "A"}] * 9000}
        assert client.post("/tokenize", json=many, headers=bearer(READER)).status_code == 422
        long = {"history": [{"domain": "d", "title": "A"}] * 9000}
        assert client.post("/recommend", json=long, headers=bearer(READER)).status_code == 422
        assert client.put("/items/films/a", json={"title": "A"}, headers=bearer(LOADER)).status_code == 201
        assert "RateLimit" not in client.get("/livez").headers
        # An entry that has to be encoded counts, also under a name that nobody knows; one that is known does not.
        raw = {"history": [*HISTORY, {"domain": "films", "item_id": "new", "title": "raw"}]}
        assert client.post("/recommend", json=raw, headers=bearer(READER)).headers["RateLimit"][7:].startswith(";r=2;")
        known = {"history": [{**HISTORY[0], "title": "known"}]}
        assert (
            client.post("/recommend", json=known, headers=bearer(READER)).headers["RateLimit"][7:].startswith(";r=1;")
        )
        metrics = client.get("/metrics").text
        assert 'unitok_rejected_total{reason="rate_limited"} 1.0' in metrics
        assert 'unitok_key_items_total{key="shop"} 9.0' in metrics


def test_a_rate_that_takes_too_long_to_look_up_is_documented(tmp_path: Path, redis_server: RedisServer) -> None:
    with Proxy(redis_server.port) as proxy:
        proxy.deaf = True
        rates = {"store": proxy.url, "rate_items_per_second": 1000, "max_request_seconds": 0.001}
        with serve(tmp_path, api_keys=KEYS, **rates) as client:
            for path, operations in client.get("/openapi.json").json()["paths"].items():
                if "get" in operations and path not in OPEN_PATHS:
                    response = client.get(path.format(domain="films", item_id="a"), headers=bearer(READER))
                    check_refusal(response, 503, "deadline-exceeded")
                    assert "503" in operations["get"]["responses"]


def test_a_bucket_holds_one_item_at_least(tmp_path: Path) -> None:
    with serve(tmp_path, api_keys=KEYS, rate_items_per_second=0.03, rate_burst_seconds=10) as client:
        answers = [client.get("/domains", headers=bearer(READER)) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert answers[0].headers["RateLimit-Policy"] == '"items";q=1;w=34'
    assert answers[0].headers["RateLimit"] == '"items";r=0;t=34'


@pytest.mark.parametrize("shared", [False, True], ids=["own buckets", "shared through Redis"])
def test_what_finds_no_room_costs_nothing(tmp_path: Path, redis_server: RedisServer, shared: bool) -> None:
    engine = DummyEngine()
    more: dict[str, Any] = {"store": redis_server.url} if shared else {}
    # Of items the service takes 8, so a request of 6 holds what a second one would need.
    settings = {"rate_items_per_second": 0.01, "rate_burst_seconds": 1000, "max_items_per_request": 8, "max_history": 7}
    key = new_key(f"room-{shared}", [KeyScope.READ])
    with (
        serve(tmp_path, engine=engine, api_keys=key.entry, max_concurrent_items=8, **settings, **more) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        engine.text_encoder.hold()
        body = {"items": [{"domain": "d", "title": str(number)} for number in range(6)]}
        held = pool.submit(client.post, "/tokenize", json=body, headers=bearer(key))
        assert engine.text_encoder.entered.wait(20)
        small = {"items": body["items"][:3]}
        for _ in range(3):
            refused = client.post("/tokenize", json=small, headers=bearer(key))
            assert refused.json()["type"] == "urn:unitok:problem:overloaded"
        engine.text_encoder.go_on.set()
        assert held.result().status_code == 200
        left = client.get("/domains", headers=bearer(key)).headers["RateLimit"]
        assert left.startswith('"items";r=3;')
        assert f'unitok_key_items_total{{key="room-{shared}"}} 7.0' in client.get("/metrics").text


def test_an_entry_may_have_a_rate_of_its_own_that_replicas_share(tmp_path: Path, redis_server: RedisServer) -> None:
    key = new_key("shared-by-replicas", [KeyScope.READ], 0.001)
    # Only the buckets of this app are in Redis: what counts is the store that the settings name.
    more: dict[str, Any] = {"api_keys": key.entry, "rate_burst_seconds": 3600, "store": redis_server.url + "/9"}
    with serve(tmp_path / "a", **more) as one, serve(tmp_path / "b", **more) as other:
        answers = [client.get("/domains", headers=bearer(key)) for client in (one, other, one, other, one)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert answers[1].headers["RateLimit"].startswith('"items";r=1;')
