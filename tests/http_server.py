"""Runs an application on a free port of this machine, in a thread, over real sockets."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import structlog
import uvicorn
from dummy_engine import DummyEngine
from fastapi import FastAPI
from structlog.testing import capture_logs

from service.catalogue.embedded import EmbeddedStore
from service.catalogue.live import LiveCatalogue
from service.http.app import create_app
from service.http.protocol_shedding import SheddingProtocol
from service.opening import Opened, opened
from service.settings import Settings

PATIENCE_SECONDS = 60.0

Event = MutableMapping[str, Any]


@contextmanager
def running(
    app: FastAPI, log: list[Event] | None = None, shed: bool = True, idle_seconds: int = 5
) -> Iterator[httpx.Client]:
    """Serve `app` and yield a client of it; what it logs goes to `log`, if anywhere.

    With uvicorn's own protocol in place of ours where nothing is to be shed.
    """
    with (
        capture_logs(processors=[structlog.contextvars.merge_contextvars]) as events,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http=partial(SheddingProtocol, turn_away=app.state.turn_away) if shed else "httptools",  # type: ignore[arg-type]
            lifespan="on",
            log_config=None,
            timeout_keep_alive=idle_seconds,
            timeout_graceful_shutdown=5,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            # Connections that idle are given up well before the server closes them, after 5 s: no request meets that.
            with httpx.Client(base_url=address, timeout=30, limits=httpx.Limits(keepalive_expiry=2)) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()
            if log is not None:
                log += events


@contextmanager
def serving(settings: Settings) -> Iterator[tuple[httpx.Client, Opened]]:
    """Serve the bundle and the store of the settings; yields a client, once the service is ready, and its parts."""
    with (
        opened(settings) as parts,
        running(create_app(settings, engine=parts.engine, catalogue=parts.catalogue)) as client,
    ):
        wait_until_ready(client)
        yield client, parts


@contextmanager
def serving_dummy(
    folder: Path,
    settings: Settings | None = None,
    engine: DummyEngine | None = None,
    log: list[Event] | None = None,
    *,
    shed: bool = True,
    idle_seconds: int = 5,
) -> Iterator[httpx.Client]:
    """Serve an engine without networks over a new store; yields a client, once the service is ready. See `running`."""
    engine = engine or DummyEngine()
    with closing(EmbeddedStore(folder, "dummy", 3, engine.layout)) as store:
        store.finish_seed()
        app = create_app(settings or Settings(), engine=engine, catalogue=LiveCatalogue(store))
        with running(app, log, shed, idle_seconds) as client:
            wait_until_ready(client)
            yield client


def metric(client: httpx.Client, name: str) -> float:
    """A metric without labels, 0 where there is none of the name."""
    lines = client.get("/metrics").text.splitlines()
    return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + " ")), 0.0)


def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    given_up, pause = time.monotonic() + PATIENCE_SECONDS, threading.Event()
    while not condition():
        assert time.monotonic() < given_up
        pause.wait(0.01)


def wait_until_ready(client: httpx.Client) -> None:
    """Ask `/readyz` until it agrees."""
    wait_for(client, "/readyz")


def wait_for(client: httpx.Client, path: str) -> None:
    """Ask for a path until it is there; the calls themselves are the pause."""
    given_up = time.monotonic() + PATIENCE_SECONDS
    while (response := client.get(path)).status_code != httpx.codes.OK:
        assert time.monotonic() < given_up, response.text
