"""`unitok tokenize --url`, and what else is behind an address than the service."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pydantic import SecretStr
from scripted_server import Prepared, scripted

from service.cli.asking import ask_server
from service.errors import ConfigError, InvalidInput, UnitokError


def test_the_end_of_a_line_is_no_part_of_a_key() -> None:
    with scripted(Prepared(200, "{}")) as script:
        assert ask_server(script.address, "/tokenize", {}, SecretStr("utk_secret\r\n")) == {}
        assert script.asked[0].headers["Authorization"] == "Bearer utk_secret"


@pytest.mark.parametrize("key", ["utk_secret\u20ac", "utk_secr\net", "\n"])
def test_what_no_header_can_carry_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(ConfigError, match=r"^UNITOK_API_KEY: an API key is letters") as caught:
        ask_server("http://127.0.0.1:1", "/tokenize", {}, SecretStr(key))
    assert "utk_" not in str(caught.value)


def test_it_is_told_what_to_do_where_nothing_listens_or_a_key_is_wanted() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(UnitokError, match=r"does not answer \(.*refused\); does `unitok serve` run there\?"):
            ask_server(address, "/tokenize", {})
    refusal = Prepared(401, '{"detail": "send an API key"}')
    with scripted(refusal) as script, pytest.raises(UnitokError, match=r"401: send an API key; .* from UNITOK_API_KEY"):
        ask_server(script.address, "/tokenize", {})


@contextmanager
def saying(answer: bytes) -> Iterator[str]:
    """Whatever answers the first connection with these bytes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def run() -> None:
            connection, _ = server.accept()
            with connection:
                asked = b""
                # Whole: what is closed with something unread is reset, and the answer may be lost.
                while not asked.endswith(b"\r\n\r\n{}"):
                    asked += connection.recv(65_536)
                connection.sendall(answer)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join(20)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"-ERR unknown command 'POST'\r\n", r"gives no whole answer of HTTP: BadStatusLine\(.-ERR"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
            "gives no whole answer of HTTP: IncompleteRead.1 bytes read",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", "answers, but not with JSON .*; is it the service"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n\xff", "answers, but not with JSON .*; is it the service"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[1]", "answers with a JSON list, not an object"),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3\r\n\r\n[1]", "answers 502: Bad Gateway"),
        (b'HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\n"xy"', "answers 404: Not Found"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 99\r\n\r\n{", "answers 404: Not Found"),
        (b'HTTP/1.1 422 No\r\nContent-Length: 15\r\n\r\n{"detail":"no"}', "answers 422: no"),
    ],
)
def test_what_is_not_the_service_is_told_in_one_line(answer: bytes, message: str) -> None:
    with saying(answer) as url, pytest.raises(UnitokError, match=f"^{url} {message}"):
        ask_server(url, "/tokenize", {})


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:1",
        "http://",
        "http://127.0.0.1:abc",
        "http://[::1",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:1 ",
        "http://127.0.0.1:1/\u00fc",
        "http://127.0.0.1:1/a\nb",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match=r"server URL .* must be http://HOST\[:PORT\]"):
        ask_server(url, "/tokenize", {})
