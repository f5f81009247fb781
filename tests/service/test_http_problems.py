"""What wrong requests get: each a clear 4xx, as problem details, and no change."""

from __future__ import annotations

import asyncio
import gzip
import json
import select
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from dummy_engine import POISON, DummyEngine
from http_server import Event, metric, running, until, wait_until_ready

from service import errors
from service.catalogue.embedded import EmbeddedStore
from service.catalogue.live import LiveCatalogue
from service.http.app import create_app
from service.http.generations import PIN
from service.http.problems import TABLE, FieldProblem, kind_of
from service.overload.body_memory import SMALL_BYTES
from service.settings import Settings

MAX_BYTES = 64 * 1024
JSON = {"Content-Type": "application/json"}
ITEM = {"item_id": "a", "domain": "films", "title": "A"}


class Served:
    def __init__(self, client: httpx.Client, engine: DummyEngine, store: EmbeddedStore) -> None:
        self.client = client
        self.engine = engine
        self.store = store


@contextmanager
def serve(folder: Path, log: list[Event] | None = None, **more: Any) -> Iterator[Served]:
    given: dict[str, Any] = {
        "max_body_bytes": MAX_BYTES,
        "max_items_per_request": 8,
        "max_history": 7,
        "max_text_characters": 100,
        "max_references": 6,
        "max_concurrent_items": 8,
        "drain_seconds": 5,
    }
    settings = Settings(**given | more)
    engine = DummyEngine()
    store = EmbeddedStore(folder, "dummy", 3, engine.layout)
    store.finish_seed()
    with running(create_app(settings, engine=engine, catalogue=LiveCatalogue(store)), log) as client:
        wait_until_ready(client)
        items = [{"item_id": str(number), "domain": "films", "title": f"film {number}"} for number in range(5)]
        assert client.post("/tokenize", json={"items": items, "register": True}).status_code == 200
        yield Served(client, engine, store)
        engine.text_encoder.go_on.set()
    store.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A server of the test's own."""
    with serve(tmp_path) as served:
        yield served


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server for all tests that only send what is refused."""
    with serve(tmp_path_factory.mktemp("shared")) as served:
        yield served


def check_problem(response: httpx.Response, status: int, kind: str, *parts: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["type"] == f"urn:unitok:problem:{kind}"
    assert problem["status"] == status
    assert problem["instance"] == response.request.url.path
    assert problem["request_id"] == response.headers["X-Request-ID"]
    assert problem["title"]
    for part in parts:
        assert part in problem["detail"]
    return problem


HISTORY = [{"domain": "films", "item_id": "1"}]
WRONG_FIELDS: list[tuple[str, dict[str, Any], str, str]] = [
    ("/tokenize", {}, "items", "required"),
    ("/tokenize", {"items": []}, "items", "at least 1"),
    ("/tokenize", {"items": [ITEM], "k": 1}, "k", "no such field"),
    ("/tokenize", {"items": [ITEM | {"colour": "red"}]}, "items[0].colour", "no such field"),
    ("/tokenize", {"items": [{"item_id": "a", "title": "A"}]}, "items[0].domain", "required"),
    ("/tokenize", {"items": [ITEM | {"domain": "../etc"}]}, "items[0].domain", "1 to 64 letters"),
    ("/tokenize", {"items": [ITEM | {"item_id": "a\nb"}]}, "items[0].item_id", "1 to 256 characters"),
    ("/tokenize", {"items": [ITEM | {"item_id": ""}]}, "items[0].item_id", "1 to 256 characters"),
    ("/tokenize", {"items": [ITEM | {"title": 7}]}, "items[0].title", "string"),
    ("/tokenize", {"items": [ITEM | {"price": -1}]}, "items[0].price", "greater than or equal to 0"),
    ("/tokenize", {"items": [ITEM, ITEM | {"title": "B"}]}, "items[1]", "already at items[0]"),
    ("/tokenize", {"items": [ITEM, {"domain": "films", "item_id": "b"}]}, "items[1]", "needs a title"),
    ("/tokenize", {"items": [{"domain": "films", "item_id": "b", "title": " \t "}]}, "items[0]", "needs a title"),
    ("/tokenize", {"items": [{"domain": "films", "item_id": "b", "categories": [" "]}]}, "items[0]", "needs a title"),
    ("/tokenize", {"items": [{"domain": "films", "title": "A"}], "register": True}, "items[0].item_id", "required"),
    ("/tokenize", {"items": [ITEM | {"embedding": [0.1] * 3}]}, "items[0].embedding", "3 numbers, but"),
    ("/tokenize", {"items": [ITEM | {"embedding": []}]}, "items[0].embedding", "at least 1"),
    ("/tokenize", {"items": [ITEM | {"embedding": [1, 1, 1, 1e39]}]}, "items[0].embedding", "number 3 is 1e+39, but"),
    ("/tokenize", {"items": [ITEM | {"embedding": [1, 1, -2e19, 1]}]}, "items[0].embedding", "number 2 is -2e+19, but"),
    ("/tokenize", {"items": [ITEM | {"embedding": [0, 0.0, 0, 1e-60]}]}, "items[0].embedding", "zero in every number"),
    ("/recommend", {"history": [{"domain": "films", "embedding": [0] * 4}]}, "history[0].embedding", "zero in every"),
    ("/tokenize", {"items": [ITEM | {"item_id": "\u6f22" * 171}], "register": True}, "items[0].item_id", "513 bytes"),
    ("/tokenize", {"items": [ITEM | {"embedding": [1, "1", 1, 1]}]}, "items[0].embedding[1]", "number"),
    ("/tokenize", {"items": [ITEM | {"embedding": [1, None, 1, 1]}]}, "items[0].embedding[1]", "number"),
    ("/tokenize", {"items": [ITEM], "register": "yes"}, "register", "boolean"),
    ("/recommend", {}, "history", "required"),
    ("/recommend", {"history": []}, "history", "at least 1"),
    ("/recommend", {"history": [{"domain": "films"}]}, "history[0]", "needs an item_id"),
    ("/recommend", {"history": [{"domain": "films", "item_id": "no-one"}]}, "history", "'no-one' of 'films'"),
    ("/recommend", {"history": [{"domain": "films", "embedding": [1]}]}, "history[0].embedding", "1 numbers"),
    ("/recommend", {"history": HISTORY, "k": 0}, "k", "greater than or equal to 1"),
    ("/recommend", {"history": HISTORY, "k": "10"}, "k", "integer"),
    ("/recommend", {"history": HISTORY, "k": 1.5}, "k", "integer"),
    ("/recommend", {"history": HISTORY, "k": True}, "k", "integer"),
    ("/recommend", {"history": HISTORY, "beam_width": 10_000}, "beam_width", "less than or equal to 1000"),
    ("/recommend", {"history": HISTORY, "k": 20, "beam_width": 19}, "beam_width", "at least k, which is 20"),
    ("/recommend", {"history": HISTORY, "domains": []}, "domains", "at least 1"),
    ("/recommend", {"history": HISTORY, "exclude": [{"item_id": "1"}]}, "exclude[0].domain", "required"),
    ("/recommend", {"history": HISTORY, "seed": 1}, "seed", "no such field"),
    ("/recommend", {"history": [{"domain": "flims", "item_id": "1"}]}, "history", "domains with items are films"),
    ("/recommend", {"history": ["1"]}, "history[0]", "must be a JSON object"),
    ("/recommend", [], "body", "must be a JSON object"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "body", "field", "message"),
    WRONG_FIELDS,
    ids=[f"{path[1:]}-{n}" for n, (path, *_) in enumerate(WRONG_FIELDS)],
)
def test_wrong_fields_are_named(shared: Served, path: str, body: Any, field: str, message: str) -> None:
    before = shared.store.head()
    if path == "/tokenize" and isinstance(body, dict):
        body = {"register": True, **body}
    problem = check_problem(shared.client.post(path, json=body), 422, "invalid-input", field)
    assert problem["errors"][0]["field"] == field
    assert message in problem["errors"][0]["message"]
    assert shared.store.head() == before


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/tokenize", {"items": [{"domain": "d", "title": str(number)} for number in range(9)]}, "items"),
        ("/tokenize", {"items": [{"domain": "d", "title": "x" * 101}]}, "items[0].title"),
        ("/tokenize", {"items": [{"domain": "d", "categories": ["a", "x" * 101]}]}, "items[0].categories"),
        ("/recommend", {"history": HISTORY * 8}, "history"),
        ("/recommend", {"history": [{"domain": "d", "description": "x" * 101}]}, "history[0].description"),
        ("/recommend", {"history": HISTORY, "k": 101}, "k"),
        ("/recommend", {"history": HISTORY, "beam_width": 201}, "beam_width"),
        ("/recommend", {"history": HISTORY, "exclude": HISTORY * 7}, "exclude"),
        ("/recommend", {"history": HISTORY, "allow": HISTORY * 7}, "allow"),
    ],
)
def test_configured_limits_are_enforced(shared: Served, path: str, body: Any, field: str) -> None:
    problem = check_problem(shared.client.post(path, json=body), 422, "limit-exceeded", field, "at most")
    assert problem["errors"][0]["field"] == field


def test_an_item_of_an_unknown_domain_is_answered_with_the_known_ones(shared: Served) -> None:
    known = check_problem(shared.client.get("/items/films/none"), 404, "item-not-found", "'films' holds no item 'none'")
    assert "domains with items" not in known["detail"]
    for method, path in (("GET", "/items/flims/1"), ("DELETE", "/items/flims/1"), ("GET", "/explain/flims/1")):
        check_problem(shared.client.request(method, path), 404, "item-not-found", "domains with items are films")


def test_an_unknown_domain_is_answered_with_the_known_ones(shared: Served) -> None:
    body = {"history": HISTORY, "domains": ["films", "books"]}
    problem = check_problem(
        shared.client.post("/recommend", json=body), 422, "unknown-domain", "'books' holds no item", "are films"
    )
    assert problem["errors"][0]["field"] == "domains[1]"


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b'{"items": [{"domain": "d", "embedding": [NaN, 1, 1, 1]}]}', "not valid JSON"),
        (b'{"items": [{"domain": "d", "embedding": [Infinity, 1, 1, 1]}]}', "not valid JSON"),
        (b'{"items": [{"domain": "d", "embedding": [1e999, 1, 1, 1]}]}', "infinity"),
        (b'{"items": [{"domain": "d", "title": "\xff\xfe"}]}', "UTF-8"),
        (b'{"items": [{"domain": "d", "title": "\\ud800"}]}', "surrogate"),
        (b'{"items": ' + b"[" * 5000, "depth"),
        (b"[" * 30000 + b"]" * 30000, "depth"),
        (b'{"items": ', "not valid JSON"),
        (b"{'items': []}", "not valid JSON"),
    ],
)
def test_what_is_not_json_is_400(shared: Served, content: bytes, part: str) -> None:
    check_problem(shared.client.post("/tokenize", content=content, headers=JSON), 400, "malformed-json", part)


def test_an_empty_body_is_422(shared: Served) -> None:
    for path in ("/tokenize", "/recommend"):
        problem = check_problem(shared.client.post(path, headers=JSON), 422, "invalid-input", "body: ")
        assert problem["errors"][0]["field"] == "body"
        check_problem(shared.client.post(path), 422, "invalid-input")


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/xml", "application/x-www-form-urlencoded", "application/json; charset=latin-1", None],
)
def test_another_content_type_is_415(shared: Served, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    response = shared.client.post("/tokenize", content=json.dumps({"items": [ITEM]}).encode(), headers=headers)
    check_problem(response, 415, "unsupported-media-type", content_type or "missing", "application/json")


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip"])
def test_a_compressed_body_is_415(shared: Served, encoding: str) -> None:
    headers = {**JSON, "Content-Encoding": encoding}
    response = shared.client.post("/tokenize", content=gzip.compress(b"{}"), headers=headers)
    check_problem(response, 415, "unsupported-media-type", f"Content-Encoding is {encoding}", "uncompressed")
    assert response.headers["Accept-Encoding"] == "identity"


def test_a_body_that_is_said_to_be_as_it_is_is_taken(shared: Served) -> None:
    headers = {**JSON, "Content-Encoding": "identity"}
    content = json.dumps({"items": [ITEM]}).encode()
    assert shared.client.post("/tokenize", content=content, headers=headers).status_code == 200


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "application/vnd.me+json"])
def test_json_by_any_of_its_names_is_taken(shared: Served, content_type: str) -> None:
    content = json.dumps({"items": [ITEM]}).encode()
    assert shared.client.post("/tokenize", content=content, headers={"Content-Type": content_type}).status_code == 200


def test_ten_megabytes_with_a_length_are_413(shared: Served) -> None:
    body = {"items": [{"domain": "d", "title": "x" * 10 * 2**20}]}
    check_problem(shared.client.post("/tokenize", json=body), 413, "body-too-large", str(MAX_BYTES))


def test_ten_megabytes_without_a_length_are_413_while_they_are_read(shared: Served) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(160):
            yield b"x" * 2**16

    response = shared.client.post("/tokenize", content=chunks(), headers=JSON)
    check_problem(response, 413, "body-too-large")


def test_413_is_decided_before_the_sender_is_done(shared: Served) -> None:
    """The answer comes although the body never ends."""
    host, port = shared.client.base_url.host, shared.client.base_url.port
    with socket.create_connection((host, port), timeout=20) as connection:
        head = ["POST /tokenize HTTP/1.1", "Host: x", "Content-Type: application/json", "Transfer-Encoding: chunked"]
        connection.sendall("\r\n".join([*head, "", ""]).encode())
        connection.sendall(b"%x\r\n" % (MAX_BYTES + 1) + b"x" * (MAX_BYTES + 1) + b"\r\n")
        assert connection.recv(12) == b"HTTP/1.1 413"


def test_a_body_that_does_not_arrive_is_408(tmp_path: Path) -> None:
    with serve(tmp_path, max_body_seconds=0.5) as served:
        host, port = served.client.base_url.host, served.client.base_url.port
        with socket.create_connection((host, port), timeout=20) as connection:
            head = ["POST /tokenize HTTP/1.1", "Host: x", "Content-Type: application/json", "Content-Length: 10"]
            connection.sendall("\r\n".join([*head, "", "{"]).encode())
            assert connection.recv(12) == b"HTTP/1.1 408"


def sent_head(client: httpx.Client, path: str, length: int) -> socket.socket:
    """A connection on which the head of a request stands, and a body is to come."""
    connection = socket.create_connection((client.base_url.host, client.base_url.port), timeout=20)
    head = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {length}"]
    connection.sendall("\r\n".join([*head, "", ""]).encode())
    return connection


def test_bodies_have_a_bound_together_and_small_ones_are_let_in_all_the_same(tmp_path: Path) -> None:
    """Each of three large bodies may come; two at a time find room."""
    body = json.dumps({"items": [ITEM]}).encode()
    large = SMALL_BYTES + 100_000
    with serve(tmp_path, max_body_bytes=250_000, max_concurrent_body_bytes=250_000) as served:
        waiting = [sent_head(served.client, "/tokenize", large) for _ in range(3)]
        for connection in waiting:
            connection.sendall(b" " * (large - len(body)))
        (refused,), _, _ = select.select(waiting, [], [], 20)
        answer = refused.recv(4096)
        assert answer.startswith(b"HTTP/1.1 429")
        assert b"\r\nretry-after: 1\r\n" in answer
        assert b"\r\nconnection: close\r\n" in answer
        assert b"urn:unitok:problem:overloaded" in answer
        assert b"may hold together" in answer
        waiting.remove(refused)
        refused.close()
        # What is small is let in, whatever the others hold.
        assert served.client.post("/tokenize", json={"items": [ITEM]}).status_code == 200
        assert metric(served.client, 'unitok_rejected_total{reason="overloaded"}') == 1
        # Who leaves makes room, and so does who is answered.
        waiting.pop().close()
        for _ in range(3):
            until(lambda: served.client.post("/tokenize", content=body.rjust(large), headers=JSON).status_code == 200)
        (last,) = waiting
        last.sendall(body)
        assert last.recv(12) == b"HTTP/1.1 200"
        last.close()


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/nothing", 404, "not-found"),
        ("GET", "/items/films", 404, "not-found"),
        ("GET", "/tokenize", 405, "method-not-allowed"),
        ("GET", "/items/films/none", 404, "item-not-found"),
        ("DELETE", "/items/films/none", 404, "item-not-found"),
        ("GET", "/items/..%2F/none", 422, "invalid-input"),
        ("GET", "/items/a%20b/none", 422, "invalid-input"),
        ("GET", "/items/films/a%00b", 422, "invalid-input"),
        ("GET", "/items/films/%ff", 422, "invalid-input"),
        ("GET", "/items/films/1%0A", 422, "invalid-input"),
        ("GET", "/items/films/1%0A1", 422, "invalid-input"),
        ("DELETE", "/items/films/1%0A", 422, "invalid-input"),
        ("GET", "/explain/films/1%0A", 422, "invalid-input"),
        ("GET", "/livez%0A", 404, "not-found"),
        ("GET", "/items/films/" + "x" * 257, 422, "invalid-input"),
    ],
)
def test_wrong_paths_are_problems_too(shared: Served, method: str, path: str, status: int, kind: str) -> None:
    response = shared.client.request(method, path)
    assert response.status_code == status
    assert response.json()["type"] == f"urn:unitok:problem:{kind}"


def test_every_path_documents_that_a_generation_may_not_be_served(shared: Served) -> None:
    paths = shared.client.get("/openapi.json").json()["paths"]
    for path, operations in paths.items():
        for method, operation in operations.items():
            url = path.format(domain="films", item_id="1")
            response = shared.client.request(method, url, headers={PIN: "99"})
            check_problem(response, 404, "unknown-generation")
            assert list(operation["responses"]["404"]["content"]) == ["application/problem+json"]
    metrics = shared.client.get("/metrics").headers["Content-Type"]
    assert list(paths["/metrics"]["get"]["responses"]["200"]["content"]) == [metrics.partition(";")[0]]


def test_put_refuses_what_tokenize_refuses(shared: Served) -> None:
    before = shared.store.head()
    for body in ({}, {"title": ""}, {"embedding": [1, 2]}, {"title": "x", "domain": "films"}):
        response = shared.client.put("/items/films/new", json=body)
        assert response.status_code == 422
        assert "items[" not in response.text
    assert shared.client.get("/items/films/new").status_code == 404
    assert shared.store.head() == before


def test_many_wrong_fields_are_answered_briefly(shared: Served) -> None:
    body = {"items": [ITEM | {f"unknown {number}": 0 for number in range(30)}]}
    problem = check_problem(shared.client.post("/tokenize", json=body), 422, "invalid-input", "and 29 more")
    assert len(problem["errors"]) == 20
    long = shared.client.post("/tokenize", json={"items": [ITEM], "x" * 50_000: 0})
    assert len(check_problem(long, 422, "invalid-input", "there is no such field")["errors"][0]["field"]) == 200


@pytest.mark.parametrize(
    "item",
    [
        {"domain": "d", "categories": [1] * 100},
        {"domain": "d", "embedding": [""] * 100},
        {"domain": "d", **{str(number): 0 for number in range(100)}},
    ],
)
def test_few_errors_are_made_of_a_body_that_is_wrong_everywhere(
    shared: Served, monkeypatch: pytest.MonkeyPatch, item: dict[str, Any]
) -> None:
    """4 MB of such items held the whole process up for 20 seconds."""
    made: list[str] = []

    class Counted(FieldProblem):
        def __init__(self, **values: str) -> None:
            super().__init__(**values)
            made.append(self.field)

    monkeypatch.setattr("service.http.problems.FieldProblem", Counted)
    check_problem(shared.client.post("/tokenize", json={"items": [item] * 50}), 422, "invalid-input", "items[0]")
    assert 1 <= len(made) <= 20


def test_the_input_is_never_repeated(shared: Served) -> None:
    body = {"items": [{"domain": "d", "title": ["my secret text"]}]}
    assert "my secret text" not in shared.client.post("/tokenize", json=body).text


def test_overload_is_429_in_items_before_any_work(served: Served) -> None:
    encoder = served.engine.text_encoder
    encoder.hold()
    client = served.client
    with ThreadPoolExecutor(2) as pool:
        # Two requests hold 6 of 8 places.
        held = [
            pool.submit(
                client.post, "/tokenize", json={"items": [{"domain": "d", "title": f"{at} {n}"} for n in range(3)]}
            )
            for at in range(2)
        ]
        until(lambda: served_items(client) == 6)
        assert encoder.entered.wait(20)
        runs = len(encoder.batches)
        three = {"items": [{"domain": "d", "title": f"more {n}"} for n in range(3)]}
        response = client.post("/tokenize", json=three)
        problem = check_problem(response, 429, "overloaded", "3 more would exceed 8")
        assert int(response.headers["Retry-After"]) >= 1
        assert problem["title"] == "The service is at capacity"
        raw = {"domain": "films", "title": "raw"}
        # One search and two raw items do not fit, one search and one raw item would.
        check_problem(client.post("/recommend", json={"history": [raw, raw]}), 429, "overloaded")
        # One place is enough for a search of known items, which does not need the busy queue.
        assert client.post("/recommend", json={"history": HISTORY}).status_code == 200
        assert len(encoder.batches) == runs
        encoder.go_on.set()
        assert [response.result().status_code for response in held] == [200, 200]
    assert client.post("/tokenize", json=three).status_code == 200
    assert 'unitok_rejected_total{reason="overloaded"} 2.0' in client.get("/metrics").text


def served_items(client: httpx.Client) -> float:
    return metric(client, "unitok_admitted_items")


def test_a_poisonous_request_fails_alone(served: Served) -> None:
    encoder = served.engine.text_encoder
    encoder.hold()
    texts = ["fine 1", POISON, "fine 2"]
    with ThreadPoolExecutor(4) as pool:
        plug = pool.submit(served.client.post, "/tokenize", json={"items": [ITEM]})
        assert encoder.entered.wait(20)
        held = [
            pool.submit(served.client.post, "/tokenize", json={"items": [{"domain": "d", "title": text}]})
            for text in texts
        ]
        until(lambda: metric(served.client, "unitok_encode_queue_depth") == 3)
        encoder.go_on.set()
        responses = [response.result() for response in (plug, *held)]
    assert [response.status_code for response in responses] == [200, 200, 500, 200]
    problem = check_problem(responses[2], 500, "internal-error", "request id")
    assert "NaN" not in problem["detail"]


def test_the_work_of_a_client_that_left_is_dropped(served: Served) -> None:
    encoder = served.engine.text_encoder
    encoder.hold()
    with ThreadPoolExecutor(1) as pool:
        plug = pool.submit(served.client.post, "/tokenize", json={"items": [ITEM]})
        assert encoder.entered.wait(20)

        async def leave() -> None:
            async with httpx.AsyncClient(base_url=served.client.base_url) as client:
                body = {"items": [{"domain": "d", "title": "nobody waits for this"}]}
                asking = asyncio.create_task(client.post("/tokenize", json=body))
                # Admitted comes before queued, and only what is queued can be dropped.
                await asyncio.to_thread(until, lambda: metric(served.client, "unitok_encode_queue_depth") == 1)
                asking.cancel()

        asyncio.run(leave())
        until(lambda: served_items(served.client) == 1)
        encoder.go_on.set()
        assert plug.result().status_code == 200
    assert served.client.post("/tokenize", json={"items": [ITEM]}).status_code == 200
    assert ["nobody waits for this"] not in encoder.batches
    metrics = served.client.get("/metrics").text
    assert 'unitok_dropped_entries_total{queue="encode"} 1.0' in metrics
    assert 'unitok_requests_total{method="POST",route="/tokenize",status="499"} 1.0' in metrics


def test_a_wrong_method_is_told_every_right_one(shared: Served) -> None:
    """Found by `make fuzz`: only the methods of the first route were named."""
    for method, path, allowed in (
        ("OPTIONS", "/items/films/1", "GET, PUT, DELETE"),
        ("PATCH", "/items/films/1", "GET, PUT, DELETE"),
        ("GET", "/tokenize", "POST"),
        ("POST", "/domains", "GET"),
    ):
        response = shared.client.request(method, path)
        check_problem(response, 405, "method-not-allowed", f"must be {allowed.replace(', ', ' or ')}")
        assert response.headers["Allow"] == allowed


def test_a_request_that_takes_too_long_is_given_up_and_withdrawn(tmp_path: Path) -> None:
    with serve(tmp_path, max_request_seconds=1) as served:
        encoder = served.engine.text_encoder
        encoder.hold()
        with ThreadPoolExecutor(2) as pool:
            plug = pool.submit(served.client.post, "/tokenize", json={"items": [ITEM]})
            assert encoder.entered.wait(20)
            waiting = pool.submit(served.client.post, "/tokenize", json={"items": [ITEM | {"title": "too late"}]})
            for answer in (plug.result(), waiting.result()):
                check_problem(answer, 503, "deadline-exceeded", "within 1 s", "repeating it is safe")
                assert answer.headers["Retry-After"] == "1"
        encoder.go_on.set()
        assert served_items(served.client) == 0
        assert served.client.get("/items/films/1").status_code == 200
        assert 'unitok_rejected_total{reason="deadline"} 2.0' in served.client.get("/metrics").text
    assert ["too late"] not in encoder.batches


def test_a_store_that_does_not_answer_is_503_and_safe_to_repeat(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_: Any) -> Any:
        raise errors.StoreUnavailable("redis://secret-host: connection refused")

    with monkeypatch.context() as patch:
        patch.setattr(EmbeddedStore, "register", down)
        response = served.client.put("/items/films/new", json={"title": "new"})
    problem = check_problem(response, 503, "store-unavailable", "nothing was acknowledged")
    assert "secret-host" not in problem["detail"]
    assert response.headers["Retry-After"] == "1"
    assert served.client.put("/items/films/new", json={"title": "new"}).status_code == 201


def test_every_error_of_the_tree_has_a_status() -> None:
    """The tree of `service/errors.py`; what the client raises is derived from it and never answered with."""

    def tree(root: type[errors.UnitokError]) -> Iterator[type[errors.UnitokError]]:
        yield root
        for child in root.__subclasses__():
            if child.__module__ == errors.__name__:
                yield from tree(child)

    for kind in tree(errors.UnitokError):
        found = kind_of(kind("x"))
        assert found is TABLE.get(kind, found)
        if issubclass(kind, errors.InvalidInput):
            assert found.status == 422
    assert kind_of(errors.ModelError("x")).status == kind_of(ZeroDivisionError()).status == 500


def test_bugs_are_500_with_the_request_id_and_no_details(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: Any) -> Any:
        raise ZeroDivisionError("inner workings")

    monkeypatch.setattr(LiveCatalogue, "domains", bug)
    problem = check_problem(served.client.get("/domains"), 500, "internal-error")
    assert "inner workings" not in json.dumps(problem)


def test_logs_carry_ids_and_outcomes_but_no_item_text(tmp_path: Path) -> None:
    log: list[Event] = []
    with serve(tmp_path, log) as served:
        body = {"items": [{"domain": "d", "title": "private words"}, {"domain": "d", "title": f"private {POISON}"}]}
        headers = {"X-Request-ID": "traced"}
        assert served.client.post("/tokenize", json=body, headers=headers).status_code == 500
    ours = [event for event in log if event.get("request_id") == "traced"]
    assert [(event["event"], event["log_level"]) for event in ours] == [
        ("request failed", "error"),
        ("request", "info"),
    ]
    assert ours[1]["status"] == 500
    assert ours[1]["path"] == "/tokenize"
    assert "private" not in repr(log)
