"""Heads that are too long, too large, too slow or no HTTP: what is answered, and that nothing stays behind."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from dummy_engine import DummyEngine
from http_server import running, until, wait_until_ready

from service.catalogue.embedded import EmbeddedStore
from service.catalogue.live import LiveCatalogue
from service.http import protocol_limits
from service.http.app import create_app
from service.settings import Settings

ITEMS = [{"item_id": str(number), "domain": "films", "title": f"film {number}"} for number in range(5)]
KNOWN = {"history": [{"item_id": "1", "domain": "films"}], "k": 3}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx.Client]:
    engine = DummyEngine()
    store = EmbeddedStore(tmp_path, "dummy", 3, engine.layout)
    store.finish_seed()
    app = create_app(Settings(drain_seconds=5), engine=engine, catalogue=LiveCatalogue(store))
    with running(app) as client:
        wait_until_ready(client)
        assert client.post("/tokenize", json={"items": ITEMS, "register": True}).status_code == 200
        yield client
        until(
            lambda: all(
                each._early._read == 0 for each in (app.state.service.recommending, app.state.service.tokenizing)
            )
        )
    store.close()


def connected(client: httpx.Client) -> socket.socket:
    assert client.base_url.port is not None
    return socket.create_connection((client.base_url.host, client.base_url.port), timeout=20)


def answers(connection: socket.socket, count: int) -> None:
    """Read until so many requests were answered with 200."""
    received = b""
    while received.count(b"HTTP/1.1 200") < count:
        piece = connection.recv(1 << 16)
        assert piece, received[-1000:]
        received += piece


def answer(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """Status and body of the answer after which the server closes the connection."""
    received = b""
    while piece := connection.recv(1 << 16):
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head
    assert b"connection: close" in head
    problem = json.loads(body)
    assert f"x-request-id: {problem['request_id']}".encode() in head
    return int(head.split()[1]), problem


BAD = {
    "target too long": (b"POST /recommend?" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 414, "target-too-long"),
    "just too long": (
        b"POST /tokenize?" + b"a" * protocol_limits.MAX_TARGET_BYTES + b" HTTP/1.1\r\n\r\n",
        414,
        "target-too-long",
    ),
    "no ASCII": ("POST /recommend/é HTTP/1.1\r\n\r\n".encode(), 400, "malformed-request"),
    "no URL": (b"POST /recommend:x:// HTTP/1.1\r\nfoo\r\n\r\n", 400, "malformed-request"),
    "no HTTP": (b"hello\r\n\r\n", 400, "malformed-request"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_head_that_cannot_be_used_is_answered_and_leaves_nothing_behind(client: httpx.Client, bad: str) -> None:
    sent, status, kind = BAD[bad]
    for _ in range(60):
        with connected(client) as connection:
            connection.sendall(sent)
            found, problem = answer(connection)
            assert (found, problem["type"]) == (status, f"urn:unitok:problem:{kind}")
    assert client.post("/recommend", json=KNOWN).status_code == 200
    assert client.post("/tokenize", json={"items": ITEMS}).status_code == 200


def test_a_head_without_end_is_cut_off(client: httpx.Client) -> None:
    with connected(client) as connection:
        connection.sendall(b"POST /recommend HTTP/1.1\r\n")
        with pytest.raises(ConnectionError):
            connection.sendall(b"x: " + b"a" * 2**26)
    assert client.post("/recommend", json=KNOWN).status_code == 200


def test_heads_are_not_waited_for_without_end(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol_limits, "MOST_HEAD_SECONDS", 0.3)
    with connected(client) as silent, connected(client) as half:
        half.sendall(b"POST /recommend HTTP/1.1\r\nx: ")
        status, problem = answer(half)
        assert (status, problem["type"]) == (408, "urn:unitok:problem:head-too-slow")
        assert silent.recv(1) == b""
    body = json.dumps(KNOWN).encode()
    head = b"POST /recommend HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    with connected(client) as connection:
        # A body has time of its own, and a connection may be used again.
        for _ in range(2):
            connection.sendall(head)
            connection.sendall(body)
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
        connection.sendall(head[:30])
        assert answer(connection)[0] == 408


def test_many_requests_in_one_piece_are_no_large_head(client: httpx.Client) -> None:
    request = b"GET /livez HTTP/1.1\r\nx: " + b"a" * 500 + b"\r\n\r\n"
    with connected(client) as connection:
        connection.sendall(request * 300 + request[:20])
        answers(connection, 300)
        connection.sendall(request[20:])
        answers(connection, 1)


def test_while_requests_wait_for_the_one_before_them_nothing_more_is_read(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    most, received = 0, protocol_limits.LimitedProtocol.data_received

    def noted(protocol: protocol_limits.LimitedProtocol, data: bytes) -> None:
        nonlocal most
        received(protocol, data)
        most = max(most, len(protocol.pipeline))

    monkeypatch.setattr(protocol_limits.LimitedProtocol, "data_received", noted)
    body = b" " * 60_000
    request = b"GET /livez HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    with connected(client) as connection:
        sending = threading.Thread(target=connection.sendall, args=(request * 200,))
        sending.start()
        answers(connection, 200)
        sending.join()
    assert most < 10  # as many as a piece may hold, of which none has more than 256,000 bytes


def test_whoever_asks_for_thousands_of_things_at_once_is_let_go(client: httpx.Client) -> None:
    request = b"GET /livez HTTP/1.1\r\n\r\n"
    asked, received = 14_000, b""
    with connected(client) as connection:
        sending = threading.Thread(target=send_all, args=(connection, request * asked))
        sending.start()
        with suppress(ConnectionError):
            while piece := connection.recv(1 << 16):
                received += piece
        sending.join()
    assert received.count(b"HTTP/1.1 200") < asked
    assert client.get("/livez").status_code == 200


def send_all(connection: socket.socket, data: bytes) -> None:
    """Send as much as the other side takes."""
    with suppress(ConnectionError):
        connection.sendall(data)


def test_heads_that_end_are_not_counted_with_the_next(client: httpx.Client) -> None:
    request = b"GET /livez HTTP/1.1\r\nx: " + b"a" * 500 + b"\r\n\r\n"
    with connected(client) as connection:
        # Each piece ends within a head whose end the next one brings; together they are larger than a head may be.
        for piece in range(4):
            connection.sendall(request[20 if piece else 0 :] + request * 99 + request[:20])
            answers(connection, 100)


def test_a_head_has_its_time_whatever_came_before_it(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped, stop = [], protocol_limits.LimitedProtocol._stop_timer

    def noted(protocol: protocol_limits.LimitedProtocol) -> None:
        stopped.extend([protocol._head_timer] if protocol._head_timer is not None else [])
        stop(protocol)

    monkeypatch.setattr(protocol_limits.LimitedProtocol, "_stop_timer", noted)
    request = b"GET /livez HTTP/1.1\r\n\r\n"
    with connected(client) as connection:
        for piece in range(5):
            connection.sendall(request[10 if piece else 0 :] + request[:10])
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
            assert len(stopped) == piece + 1  # that of the head which ended, though another has begun
        assert len(set(map(id, stopped))) == 5


CHUNKED = b"POST /recommend HTTP/1.1\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


def test_fields_behind_a_body_are_passed_over(client: httpx.Client) -> None:
    with connected(client) as connection:
        connection.sendall(CHUNKED + chunk(json.dumps(KNOWN).encode()) + b"0\r\nx-unitok-generation: 99\r\n\r\n")
        answers(connection, 1)


@pytest.mark.parametrize("endless", [b"a: b\r\n", b"a: " + b"b" * 1000], ids=["many", "one long"])
def test_fields_behind_a_body_are_cut_off(client: httpx.Client, endless: bytes) -> None:
    with connected(client) as connection:
        connection.sendall(CHUNKED + chunk(b"{}") + b"0\r\n")
        with pytest.raises(ConnectionError):
            connection.sendall(endless * (2**26 // len(endless)))
    assert client.post("/recommend", json=KNOWN).status_code == 200


@pytest.mark.parametrize("wish", [b"h2c", b"websocket"])
def test_who_asks_for_another_protocol_is_answered_in_this_one(client: httpx.Client, wish: bytes) -> None:
    """The parser took the body for the other protocol, and then for the next request."""
    fields = b"content-type: application/json\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: " + wish
    body = json.dumps(KNOWN).encode()
    head = b"POST /recommend HTTP/1.1\r\n" + fields + b"\r\ncontent-length: %d\r\n\r\n" % len(body)
    with connected(client) as connection:
        for pieces, count in (
            ([head + body], 1),
            ([head[:30], head[30:], body], 1),
            ([head + body[:5], body[5:] + head, body], 2),
        ):
            for piece in pieces:
                connection.sendall(piece)
            answers(connection, count)
        many = b"GET /livez HTTP/1.1\r\n" + fields + b"\r\n\r\n"
        connection.sendall(many * 500)
        answers(connection, 500)
    hidden = b"DELETE /items/films/4 HTTP/1.1\r\n\r\n"
    with connected(client) as connection:
        connection.sendall(b"POST /recommend HTTP/1.1\r\n" + fields + b"\r\ncontent-length: %d\r\n\r\n" % len(hidden))
        connection.sendall(hidden)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 400")
    assert client.get("/items/films/4").status_code == 200


def test_nobody_is_connected_anywhere(client: httpx.Client) -> None:
    with connected(client) as connection:
        connection.sendall(b"CONNECT shop.example:443 HTTP/1.1\r\n\r\n")
        assert answer(connection)[0] == 400


def test_who_reads_nothing_is_let_go(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol_limits, "MOST_STALLED_SECONDS", 0.3)
    lost, connection_lost = [], protocol_limits.LimitedProtocol.connection_lost

    def noted(protocol: protocol_limits.LimitedProtocol, exc: Exception | None) -> None:
        lost.append(protocol.transport.get_extra_info("peername"))
        connection_lost(protocol, exc)

    monkeypatch.setattr(protocol_limits.LimitedProtocol, "connection_lost", noted)
    with connected(client) as connection:
        connection.sendall(b"GET /openapi.json HTTP/1.1\r\n\r\n" * 300)
        name = connection.getsockname()
        until(lambda: name in lost)
    assert client.post("/recommend", json=KNOWN).status_code == 200
