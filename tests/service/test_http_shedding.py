"""A flood over HTTP: requests are refused unread, whoever sends them, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from dummy_engine import DummyEngine
from http_server import Event, metric, serving_dummy, until

from service.access.keys import KeyScope, new_key
from service.http import protocol_limits, shedding
from service.settings import Settings

PLACES = 8
CLIENTS = 48
SEARCH_SECONDS = 0.01
IDLE_SECONDS = 1
ITEMS = [{"item_id": str(number), "domain": "films", "title": f"film {number}"} for number in range(5)]
KNOWN = {"history": [{"item_id": "1", "domain": "films"}], "k": 3}
KEY = new_key("shop", [KeyScope.READ, KeyScope.REGISTER])


@contextmanager
def serve(
    folder: Path, engine: DummyEngine, log: list[Event] | None = None, shed: bool = True, **more: Any
) -> Iterator[httpx.Client]:
    settings = Settings(
        max_items_per_request=PLACES, max_history=PLACES - 1, max_body_bytes=64 * 1024, drain_seconds=5, **more
    )
    with serving_dummy(folder, settings, engine, log, shed=shed, idle_seconds=IDLE_SECONDS) as client:
        client.headers["Authorization"] = f"Bearer {KEY.secret}"
        assert client.post("/tokenize", json={"items": ITEMS, "register": True}).status_code == 200
        yield client
        engine.text_encoder.go_on.set()


@pytest.fixture(params=[True, False], ids=["shed where parsed", "refused by the application"])
def full(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """A service whose every place is taken, with keys and an origin that may read its answers."""
    engine = DummyEngine()
    origins = ("https://shop.example",)
    settings: dict[str, Any] = {"max_concurrent_items": PLACES, "api_keys": KEY.entry, "cors_origins": origins}
    with serve(tmp_path / "store", engine, shed=request.param, **settings) as client, ThreadPoolExecutor(1) as pool:
        held = hold(engine, client, pool)
        yield client
        engine.text_encoder.go_on.set()
        assert held.result().status_code == 200
        # Waited for: until there is no more overload, a request is let in only if the event loop is not behind either.
        until(lambda: client.post("/recommend", json=KNOWN).status_code == 200)


def hold(engine: DummyEngine, client: httpx.Client, pool: ThreadPoolExecutor) -> Future[httpx.Response]:
    """A request that takes every place until the encoder may go on."""
    engine.text_encoder.hold()
    items = [{"domain": "d", "title": str(number)} for number in range(PLACES)]
    held = pool.submit(client.post, "/tokenize", json={"items": items})
    until(lambda: metric(client, "unitok_admitted_items") == PLACES)
    return held


def check(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 429, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    assert int(response.headers["Retry-After"]) >= 1
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    problem: dict[str, Any] = response.json()
    assert set(problem) == {"type", "title", "status", "detail", "instance", "request_id"}
    assert problem["type"] == "urn:unitok:problem:overloaded"
    assert problem["request_id"] == response.headers["X-Request-ID"]
    return problem


@pytest.mark.parametrize(
    ("method", "path", "sent"),
    [
        ("POST", "/recommend", {"json": KNOWN}),
        ("POST", "/tokenize", {"json": {"items": ITEMS[:1]}}),
        ("POST", "/recommend", {"content": b"{no json"}),
        ("POST", "/tokenize", {"content": b"<xml/>", "headers": {"Content-Type": "text/xml"}}),
        ("POST", "/tokenize", {"json": {"items": []}, "headers": {"Authorization": "Bearer unknown"}}),
        ("POST", "/tokenize", {"content": b"x" * 10**7}),
        ("POST", "/recommend", {"content": iter([b"x" * 10**5] * 20)}),
        ("PUT", "/items/films/a%2Fb", {"json": {"title": "A"}}),
    ],
)
def test_work_is_refused_whatever_its_body_and_whoever_sends_it(
    full: httpx.Client, method: str, path: str, sent: dict[str, Any]
) -> None:
    before = metric(full, f'unitok_requests_total{{method="{method}",route="/{path.split("/")[1]}",status="429"}}')
    problem = check(full.request(method, path, **sent))
    assert problem["instance"] == path.replace("%2F", "/")
    counted = f'unitok_requests_total{{method="{method}",route="/{path.split("/")[1]}",status="429"}}'
    assert metric(full, counted) == before + 1
    assert metric(full, 'unitok_problems_total{type="overloaded"}') == 1
    assert metric(full, 'unitok_rejected_total{reason="overloaded"}') == 1


def test_the_rest_of_a_refused_request_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol_limits, "MOST_HEAD_SECONDS", 0.3)
    engine = DummyEngine()
    head = b"POST /recommend HTTP/1.1\r\ncontent-type: application/json\r\n"
    with serve(tmp_path, engine, max_concurrent_items=PLACES) as client, ThreadPoolExecutor(1) as pool:
        held = hold(engine, client, pool)
        address = str(client.base_url.host), client.base_url.port or 0
        for fields, rest in (
            (b"transfer-encoding: chunked\r\n\r\n", b"5"),
            (b"transfer-encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n"),
            (b"content-length: 5\r\n\r\n", b"abc"),
            (b"content-length: 5\r\n\r\n", b"abcde"),
            (b"origin: https://shop.example\r\ncontent-length: 5\r\n\r\n", b"abcde"),
        ):
            with socket.create_connection(address, timeout=20) as connection:
                connection.sendall(head + fields)
                assert connection.recv(1 << 16).startswith(b"HTTP/1.1 429")
                connection.sendall(rest)
                while connection.recv(1 << 16):
                    pass
        engine.text_encoder.go_on.set()
        assert held.result().status_code == 200


def test_what_takes_no_work_still_comes_in(full: httpx.Client) -> None:
    for path in ("/livez", "/readyz", "/metrics", "/domains", "/bundle", "/items/films/1", "/openapi.json"):
        assert full.get(path).status_code == 200, path
    assert full.get("/recommend").status_code == 405
    assert full.post("/no-such-path", json={}).status_code == 404


def test_a_deletion_is_read_and_then_refused(full: httpx.Client) -> None:
    check(full.delete("/items/films/4"))
    assert full.get("/items/films/4").status_code == 200
    assert full.delete("/items/films/4", headers={"Authorization": "Bearer unknown"}).status_code == 401


def test_ids_of_requests_and_origins_are_treated_as_ever(full: httpx.Client) -> None:
    headers = {"X-Request-ID": "mine-1", "Origin": "https://shop.example"}
    response = full.post("/recommend", json=KNOWN, headers=headers)
    assert check(response)["request_id"] == "mine-1"
    assert response.headers["Access-Control-Allow-Origin"] == "https://shop.example"


@pytest.mark.parametrize("chunked", [False, True])
def test_the_answer_comes_before_the_body_and_the_connection_is_used_again(full: httpx.Client, chunked: bool) -> None:
    half = b"x" * 300_000
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % (2 * len(half))
    with socket.create_connection((full.base_url.host, full.base_url.port or 0), timeout=20) as connection:

        def send(part: bytes) -> None:
            connection.sendall(b"%x\r\n%s\r\n" % (len(part), part) if chunked else part)

        answers = connection.makefile("rb")
        for _ in range(3):
            connection.sendall(b"POST /recommend HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n\r\n")
            send(half)
            assert b"429 Too Many Requests" in answers.readline()
            headers = dict(iter(lambda: answers.readline().strip().lower().partition(b": ")[::2], (b"", b"")))
            assert b"connection" not in headers
            assert json.loads(answers.read(int(headers[b"content-length"])))["status"] == 429
            send(half)
            if chunked:
                connection.sendall(b"0\r\n\r\n")
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert answers.read().startswith(b"HTTP/1.1 200 OK")


def test_pipelined_requests_are_answered_in_their_order(full: httpx.Client) -> None:
    refused = b"POST /recommend HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"
    probe = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
    last = probe.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with socket.create_connection((full.base_url.host, full.base_url.port or 0), timeout=20) as connection:
        connection.sendall(refused + refused + probe + refused + probe + last)
        answers = connection.makefile("rb").read()
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"429", b"429", b"200", b"429", b"200", b"200"]


@pytest.mark.parametrize("full", [True], indirect=True)
@pytest.mark.parametrize(("sent", "rest"), [(b"", b"{}"), (b"{", b"}"), (b"", b"{"), (b"", b"")])
def test_a_connection_that_falls_silent_after_a_refusal_is_closed(full: httpx.Client, sent: bytes, rest: bytes) -> None:
    """Whether its body came in full or not."""
    head = b"POST /recommend HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n"
    with socket.create_connection((full.base_url.host, full.base_url.port or 0), timeout=20) as connection:
        connection.sendall(head + sent)
        assert connection.recv(12) == b"HTTP/1.1 429"
        connection.sendall(rest)
        assert connection.makefile("rb").read().endswith(b"}"), "ends when the server hangs up"


def test_who_asks_before_sending_a_body_is_told_not_to(full: httpx.Client) -> None:
    head = b"POST /tokenize HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n"
    with socket.create_connection((full.base_url.host, full.base_url.port or 0), timeout=20) as connection:
        connection.sendall(head)
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 429 ")
    assert b"connection: close\r\n" in answer


class SlowEngine(DummyEngine):
    """Searches that take a while, whatever their number."""

    def __init__(self) -> None:
        super().__init__()
        search, never = self.recommenders[0].search, threading.Event()

        def slow(**arguments: Any) -> Any:
            never.wait(SEARCH_SECONDS)
            return search(**arguments)

        self.recommenders[0].search = slow  # type: ignore[method-assign]


@pytest.mark.parametrize("shed", [True, False])
def test_a_flood_gets_200_or_429_and_probes_get_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shed: bool
) -> None:
    monkeypatch.setattr(shedding, "LOG_SECONDS", 0.01)
    log: list[Event] = []
    with serve(tmp_path, SlowEngine(), log, shed, max_wait_seconds=0.02, search_batch_beams=50) as client:
        answers, probed = asyncio.run(flood(str(client.base_url), rounds=8))
        statuses = Counter(answer.status_code for answer in answers)
        assert set(statuses) == {200, 429}
        for answer in answers:
            if answer.status_code == 429:
                check(answer)
        assert probed
        assert set(probed) == {200}
        count = 'unitok_requests_total{method="POST",route="/recommend",status="%d"}'
        assert {status: metric(client, count % status) for status in statuses} == statuses
        assert metric(client, 'unitok_rejected_total{reason="overloaded"}') == statuses[429]
        # Calm again: as many as there are places to wait for are served, one after another.
        until(lambda: all(client.post("/recommend", json=KNOWN).status_code == 200 for _ in range(20)))
        assert metric(client, "unitok_admitted_items") == 0
    unread = [event["requests"]["POST /recommend"] for event in log if event["event"] == "requests refused unread"]
    read = [event for event in log if event["event"] == "request" and event["status"] == 429]
    assert len(unread) > 0
    assert sum(unread) + len(read) == statuses[429]
    assert sum(unread) > len(read), "most were refused before they were read"


async def flood(address: str, rounds: int) -> tuple[list[httpx.Response], list[int]]:
    """Answers to many clients that ask again and again, and the statuses that a probe saw meanwhile."""
    ended = asyncio.Event()
    limits = httpx.Limits(max_connections=CLIENTS + 1)
    async with httpx.AsyncClient(base_url=address, timeout=30, limits=limits) as client:

        async def ask() -> list[httpx.Response]:
            return [await client.post("/recommend", json=KNOWN) for _ in range(rounds)]

        async def probe() -> list[int]:
            statuses = []
            while not ended.is_set():
                statuses += [(await client.get(path)).status_code for path in ("/livez", "/readyz", "/metrics")]
            return statuses

        probing = asyncio.create_task(probe())
        answers = await asyncio.gather(*(ask() for _ in range(CLIENTS)))
        ended.set()
        return [answer for mine in answers for answer in mine], await probing


def test_slow_senders_keep_nobody_out(tmp_path: Path) -> None:
    with serve(tmp_path, SlowEngine(), max_wait_seconds=0.02) as client:
        address = (client.base_url.host, client.base_url.port or 0)
        assert client.post("/recommend", json=KNOWN).status_code == 200
        head = b"POST /recommend HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        connections = [socket.create_connection(address, timeout=20) for _ in range(20)]
        for connection in connections:
            connection.sendall(head)
        until(lambda: {client.post("/recommend", json=KNOWN).status_code for _ in range(10)} == {200})
        for connection in connections:
            connection.close()
