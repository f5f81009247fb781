"""Who gets in while the event loop is busy: the connections of many clients in one round, not those of one."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from service.errors import ConfigError
from service.http.serving import ACCEPTED_A_ROUND, DrainingServer
from service.settings import Settings

PATIENCE_SECONDS = 60


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """Gives the collector of garbage back what a server took from it."""
    yield
    gc.unfreeze()


class Rounds(Starlette):
    """Notes in which round of the event loop it hears of each request, after one that holds the loop up."""

    def __init__(self) -> None:
        super().__init__()
        self.state.service = self
        self.state.turn_away = lambda scope: None
        self.held, self.go_on = threading.Event(), threading.Event()
        self.heard: list[int] = []
        self._round = 0

    async def drain(self) -> None:
        """There is nothing to finish."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await super().__call__(scope, receive, send)
            return
        if scope["path"] == "/hold":
            self.held.set()
            self.go_on.wait(PATIENCE_SECONDS)
            self._count()
        else:
            self.heard.append(self._round)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    def _count(self) -> None:
        self._round += 1
        if len(self.heard) < ACCEPTED_A_ROUND:
            asyncio.get_running_loop().call_soon(self._count)


def test_connections_that_came_while_the_loop_was_busy_are_heard_of_together() -> None:
    app, address = Rounds(), Future[str]()
    server = DrainingServer(app, Settings(port=0), address.set_result)

    def ask() -> list[bytes]:
        where = urlsplit(address.result(PATIENCE_SECONDS))
        with ExitStack() as stack:

            def send(path: str) -> socket.socket:
                connection = socket.create_connection((where.hostname, where.port), timeout=PATIENCE_SECONDS)
                connection.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
                return stack.enter_context(connection)

            try:
                holding = send("/hold")
                assert app.held.wait(PATIENCE_SECONDS)
                others = [send("/") for _ in range(ACCEPTED_A_ROUND)]
                app.go_on.set()
                return [each.makefile("rb").readline() for each in (holding, *others)]
            finally:
                app.go_on.set()
                server.should_exit = True

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        server.run()
        assert asked.result() == [b"HTTP/1.1 204 No Content\r\n"] * (ACCEPTED_A_ROUND + 1)
    assert max(app.heard) - min(app.heard) < ACCEPTED_A_ROUND / 4


def test_what_there_is_at_the_start_is_not_looked_through_again() -> None:
    """By the collector of garbage, which would stop every request meanwhile."""
    there: list[Rounds] = []

    def started(address: str) -> None:
        there.extend(each for each in gc.get_objects() if isinstance(each, Rounds))
        server.should_exit = True

    server = DrainingServer(Rounds(), Settings(port=0), started)
    assert any(isinstance(each, Rounds) for each in gc.get_objects())
    server.run()
    assert gc.get_freeze_count() > 0
    assert not there


def test_idle_connections_are_kept_for_longer_than_proxies_keep_theirs() -> None:
    """Uvicorn's 5 s closed them under proxies that had just sent the next request: sporadic 502s."""
    kept = [
        DrainingServer(Rounds(), settings, lambda address: None).config.timeout_keep_alive
        for settings in (Settings(), Settings(keep_alive_seconds=7))
    ]
    assert kept == [75, 7]


def test_an_address_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = DrainingServer(Rounds(), Settings(port=taken.getsockname()[1]), lambda address: None)
        with pytest.raises(ConfigError, match=r"cannot listen on 127\.0\.0\.1:\d+ \(.*in use.*another --host"):
            server.run()
