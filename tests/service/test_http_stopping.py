"""Stopping: readiness turns, running requests finish, new ones are refused, the process ends with status 0."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from dummy_engine import DummyEngine
from http_server import metric, until, wait_until_ready

from service.catalogue.embedded import EmbeddedStore
from service.catalogue.live import LiveCatalogue
from service.errors import NotReady
from service.items import ItemContent
from service.lifecycle import Service, State
from service.operations.queries import ItemInput
from service.settings import Settings

ITEM = ItemInput("d", None, ItemContent(title="A"))


@contextmanager
def made(folder: Path, settings: Settings) -> Iterator[tuple[Service, DummyEngine]]:
    engine = DummyEngine()
    store = EmbeddedStore(folder, "dummy", 3, engine.layout)
    store.finish_seed()
    yield Service(settings, engine, LiveCatalogue(store)), engine
    store.close()


def test_draining_waits_for_what_runs_and_refuses_what_is_new(tmp_path: Path) -> None:
    async def main(service: Service, engine: DummyEngine) -> None:
        await service.warm_up()
        assert service.state is State.READY
        engine.text_encoder.hold()
        running = asyncio.create_task(service.tokenizing.tokenize([ITEM]))
        while service.admission.requests == 0:
            await asyncio.sleep(0)
        draining = asyncio.create_task(service.drain())
        while service.state is not State.STOPPING:
            await asyncio.sleep(0)
        with pytest.raises(NotReady):
            service.require_open()
        assert not draining.done()
        engine.text_encoder.go_on.set()
        await draining
        assert service.admission.requests == 0
        assert len(await running) == 1
        await service.close()
        assert not service.alive

    with made(tmp_path, Settings(drain_seconds=60)) as (service, engine):
        asyncio.run(main(service, engine))


def test_draining_ends_when_its_time_is_over(tmp_path: Path) -> None:
    async def main(service: Service, engine: DummyEngine) -> None:
        engine.text_encoder.hold()
        running = asyncio.create_task(service.tokenizing.tokenize([ITEM]))
        while service.admission.requests == 0:
            await asyncio.sleep(0)
        await service.drain()
        assert not running.done()
        engine.text_encoder.go_on.set()
        await running
        await service.close()

    with made(tmp_path, Settings(drain_seconds=0)) as (service, engine):
        asyncio.run(main(service, engine))


def test_a_service_that_starts_while_it_is_stopped_never_becomes_ready(tmp_path: Path) -> None:
    async def main(service: Service) -> None:
        await service.drain()
        await service.warm_up()
        assert service.state is State.STOPPING
        await service.close()

    with made(tmp_path, Settings(drain_seconds=0)) as (service, _):
        asyncio.run(main(service))


SERVER = """
import sys, threading
from pathlib import Path
from dummy_engine import DummyEngine
from service.http.app import create_app
from service.catalogue.embedded import EmbeddedStore
from service.catalogue.live import LiveCatalogue
from service.logs import configure_logs
from service.http.serving import DrainingServer
from service.settings import Settings

configure_logs("error", "json")
engine = DummyEngine()
store = EmbeddedStore(Path(sys.argv[1]), "dummy", 3, engine.layout)
store.finish_seed()

def obey():
    for line in sys.stdin:
        {"hold\\n": engine.text_encoder.hold, "go on\\n": engine.text_encoder.go_on.set}[line]()
        print("done", flush=True)

threading.Thread(target=obey, daemon=True).start()
settings = Settings(port=0, drain_seconds=60)
app = create_app(settings, engine=engine, catalogue=LiveCatalogue(store))
DrainingServer(app, settings, lambda address: print(address, flush=True)).run()
print("stopped", flush=True)
"""


@contextmanager
def server_process(folder: Path) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    tests = Path(__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(folder)],
        cwd=tests.parent,
        env={"PYTHONPATH": str(tests)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with httpx.Client(base_url=process.stdout.readline().strip(), timeout=30) as client:
            wait_until_ready(client)
            yield process, client
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def tell(process: subprocess.Popen[str], command: str) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(command + "\n")
    process.stdin.flush()
    assert process.stdout.readline() == "done\n"


def test_a_signal_drains_and_the_process_ends_with_status_0(tmp_path: Path) -> None:
    body = {"items": [{"domain": "d", "title": "in flight"}]}
    with server_process(tmp_path) as (process, client), ThreadPoolExecutor(1) as pool:
        tell(process, "hold")
        running = pool.submit(client.post, "/tokenize", json=body)
        until(lambda: metric(client, "unitok_admitted_items") == 1)
        process.send_signal(signal.SIGTERM)
        until(lambda: client.get("/readyz").json()["status"] != "ready")
        assert client.get("/readyz").status_code == 503
        refused = client.post("/tokenize", json=body)
        assert refused.status_code == 503
        assert refused.json()["type"] == "urn:unitok:problem:not-ready"
        assert client.get("/livez").status_code == 200
        tell(process, "go on")
        assert running.result().status_code == 200
        assert process.wait(30) == 0
        assert process.stdout is not None
        assert process.stdout.readline() == "stopped\n"
    with pytest.raises(httpx.ConnectError):
        httpx.get(client.base_url)


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    body = {"items": [{"domain": "d", "title": "in flight"}]}
    with server_process(tmp_path) as (process, client), ThreadPoolExecutor(1) as pool:
        tell(process, "hold")
        running = pool.submit(client.post, "/tokenize", json=body)
        until(lambda: metric(client, "unitok_admitted_items") == 1)
        process.send_signal(signal.SIGINT)
        until(lambda: client.get("/readyz").json()["status"] != "ready")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == -signal.SIGTERM
        with pytest.raises(httpx.TransportError):
            running.result()
