"""The service while its store is in trouble: what it goes on doing, what it refuses, what it says, how it recovers."""

from __future__ import annotations

import asyncio
import resource
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from dummy_engine import DummyEngine
from http_server import PATIENCE_SECONDS, metric, running, until, wait_until_ready
from proxy import Proxy
from redis_server import RedisServer

from service.catalogue import redis_clients
from service.catalogue.checking import examine
from service.catalogue.embedded import EmbeddedStore
from service.catalogue.live import LiveCatalogue
from service.catalogue.opening import open_store
from service.catalogue.records import ItemKey, NewItem
from service.catalogue.store import CatalogueStore
from service.errors import StoreUnavailable
from service.http.app import create_app
from service.lifecycle import STORE_FAILED, STORE_REFUSES
from service.metrics import Metrics
from service.operations.writing import Writing
from service.overload.admission import Admission
from service.settings import Settings

FILMS = [{"item_id": f"film-{number}", "domain": "films", "title": f"film {number}"} for number in range(20)]
HISTORY = [{"item_id": "film-1", "domain": "films"}, {"domain": "films", "title": "raw"}]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch, few_buckets: None) -> None:
    monkeypatch.setattr(redis_clients, "SERVING_SECONDS", 0.5)


class Served:
    """A service on a store, asked by two clients without pause as soon as `busy` is entered."""

    def __init__(self, client: httpx.Client, store: CatalogueStore) -> None:
        self.client = client
        self.store = store
        self.answered = 0
        self.failed: list[str] = []

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Recommend and tokenize while the block runs; not one request may fail."""
        ended = threading.Event()

        def ask(path: str, body: dict[str, Any]) -> None:
            with httpx.Client(base_url=self.client.base_url, timeout=30) as client:
                while not ended.is_set():
                    response = client.post(path, json=body)
                    if response.status_code != 200 or not response.json()["items"]:
                        self.failed.append(response.text)
                    self.answered += 1

        asked = (("/recommend", {"history": HISTORY, "k": 3}), ("/tokenize", {"items": FILMS[:2]}))
        threads = [threading.Thread(target=ask, args=arguments) for arguments in asked]
        for thread in threads:
            thread.start()
        try:
            yield
            more = self.answered + 4
            until(lambda: self.answered >= more)
        finally:
            ended.set()
            for thread in threads:
                thread.join()
        assert self.failed == []

    def put(self, name: str) -> httpx.Response:
        return self.client.put(f"/items/films/{name}", json={"title": f"unheard-of {name}"})

    def store_check(self) -> str:
        response = self.client.get("/readyz")
        assert response.status_code == 200, "what can recommend is ready"
        found: str = response.json()["checks"]["store"]
        return found

    def metric(self, name: str) -> float:
        return metric(self.client, name)


@contextmanager
def serve(store: CatalogueStore) -> Iterator[Served]:
    store.finish_seed()
    settings = Settings(refresh_seconds=0.02, compare_seconds=0.1, drain_seconds=5)
    with running(create_app(settings, engine=DummyEngine(), catalogue=LiveCatalogue(store))) as client:
        wait_until_ready(client)
        assert client.post("/tokenize", json={"items": FILMS, "register": True}).status_code == 200
        yield Served(client, store)
    store.close()


class Rig:
    """A server, a proxy before it, and a service behind both."""

    def __init__(self, folder: Path, server: RedisServer, proxy: Proxy) -> None:
        self.folder = folder
        self.server = server
        self.proxy = proxy
        self.client = redis.Redis(port=server.port)

    def lose_everything(self) -> None:
        self.server.kill()
        shutil.rmtree(self.folder / "appendonlydir")
        self.server.start()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with RedisServer(tmp_path / "server") as server, Proxy(server.port) as proxy:
        yield Rig(tmp_path / "server", server, proxy)


def layout() -> Any:
    return DummyEngine().layout


FAULTS: dict[str, tuple[Callable[[Rig], object], Callable[[Rig], object], str]] = {
    "killed": (lambda rig: rig.server.kill(), lambda rig: rig.server.start(), STORE_FAILED),
    "deaf": (lambda rig: setattr(rig.proxy, "deaf", True), lambda rig: setattr(rig.proxy, "deaf", False), STORE_FAILED),
    "full": (
        lambda rig: rig.client.config_set("maxmemory", 1),
        lambda rig: rig.client.config_set("maxmemory", 0),
        STORE_REFUSES,
    ),
    "read-only": (
        lambda rig: rig.client.replicaof("127.0.0.1", "1"),
        lambda rig: rig.client.replicaof("NO", "ONE"),
        STORE_REFUSES,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_store_in_trouble_stops_registrations_and_nothing_else(rig: Rig, fault: str) -> None:
    break_it, heal_it, said = FAULTS[fault]
    with serve(open_store(rig.proxy.url, "dummy", 3, layout(), serving=True)) as served, served.busy():
        assert served.store_check() == "ok"
        break_it(rig)
        for name in ("a", "b"):
            response = served.put(name)
            assert response.status_code == 503, response.text
            assert response.headers["Retry-After"] == "1"
            assert response.json()["type"] == "urn:unitok:problem:store-unavailable"
            assert served.client.get(f"/items/films/{name}").status_code == 404
        assert served.client.delete("/items/films/film-2").status_code == 503
        assert served.client.get("/items/films/film-2").status_code == 200
        # Waited for together: on a busy machine a later look at the store may take too long, which counts as a failure.
        up = said == STORE_REFUSES
        until(lambda: served.store_check() == said and served.metric("unitok_store_up") == up)
        assert served.metric("unitok_store_writable") == 0
        assert served.metric('unitok_store_failures_total{what="write"}') == 3
        assert served.metric("unitok_ready") == 1
        heal_it(rig)
        until(lambda: served.store_check() == "ok" and served.metric("unitok_store_writable") == 1)
        assert served.put("a").status_code in {200, 201}
        assert served.client.delete("/items/films/film-2").status_code == 204
        until(lambda: served.metric('unitok_catalogue_comparisons_total{outcome="same"}') > 0)
        assert served.metric('unitok_catalogue_rereads_total{reason="different"}') == 0
        stored = {item.item_id for batch in served.store.scan() for item in batch}
        # A change whose acknowledgement was lost on the way may have been made, wholly; no other may.
        lost = {"b"} if fault == "deaf" else set()
        assert stored - lost == {"a", *(item["item_id"] for item in FILMS)} - {"film-2"}
        assert examine(served.store).findings == ()


def test_a_slow_store_slows_registrations_and_nothing_else(rig: Rig) -> None:
    with serve(open_store(rig.proxy.url, "dummy", 3, layout(), serving=True)) as served, served.busy():
        rig.proxy.delay = 0.1
        assert served.put("a").status_code == 201
        assert served.store_check() == "ok"
        assert served.client.delete("/items/films/a").status_code == 204


def test_a_server_that_comes_back_empty_is_filled_from_memory(rig: Rig) -> None:
    store = open_store(rig.proxy.url, "dummy", 3, layout(), serving=True)
    with serve(store) as served, served.busy():
        published = {item["item_id"]: item["semantic_id"] for item in all_items(served)}
        rig.lose_everything()
        until(lambda: served.metric('unitok_catalogue_rereads_total{reason="lost"}') == 1)
        until(lambda: served.store_check() == "ok")
        assert served.put("new").status_code == 201
        after = {item["item_id"]: item["semantic_id"] for item in all_items(served)}
        assert after.pop("new") not in published.values()
        assert after == published
        assert {item.item_id for batch in store.scan() for item in batch} == {*published, "new"}
        assert examine(store).findings == ()


def all_items(served: Served) -> list[dict[str, Any]]:
    names = [f"film-{number}" for number in range(20)] + ["new"]
    responses = (served.client.get(f"/items/films/{name}") for name in names)
    return [response.json() for response in responses if response.status_code == 200]


@pytest.mark.parametrize("old", ["gone", "demoted"])
def test_a_failover_needs_no_hand(rig: Rig, tmp_path: Path, old: str) -> None:
    """The store's name leads to a new primary; connections to the old one break, or answer that it is read-only."""
    with (
        RedisServer(tmp_path / "second") as second,
        serve(open_store(rig.proxy.url, "dummy", 3, layout(), serving=True)) as served,
    ):
        new = redis.Redis(port=second.port)
        new.replicaof("127.0.0.1", str(rig.server.port))
        until(lambda: new.info("replication").get("master_link_status") == "up")
        until(lambda: new.keys("unitok*:log") and new.xlen(new.keys("unitok*:log")[0]) == len(FILMS))
        with served.busy():
            new.replicaof("NO", "ONE")
            rig.proxy.target = second.port
            if old == "gone":
                rig.server.kill()
            else:
                rig.client.replicaof("127.0.0.1", str(second.port))
            until(lambda: served.put("a").status_code in {200, 201})
            assert new.xlen(new.keys("unitok*:log")[0]) == len(FILMS) + 1
            until(lambda: served.store_check() == "ok")
            assert served.metric('unitok_catalogue_rereads_total{reason="lost"}') == 0
        new.close()


def test_a_full_disk_stops_registrations_and_nothing_else(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path, "dummy", 3, layout())
    with serve(store) as served, served.busy():
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        written: list[str] = []
        # Files of this process can be made no larger than the log is now, or little more.
        limit = (tmp_path / "dummy@3.sqlite3-wal").stat().st_size + 20_000
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            while (response := served.put(f"n{len(written)}")).status_code == 201:
                written.append(f"n{len(written)}")
            assert response.status_code == 503
            assert response.headers["Retry-After"] == "1"
            # Smaller changes may still have fitted; now nothing does.
            resource.setrlimit(resource.RLIMIT_FSIZE, (32, hard))
            refused = f"n{len(written)}"
            assert served.put(refused).status_code == 503
            until(lambda: served.store_check() == STORE_REFUSES)
            assert served.client.get(f"/items/films/{refused}").status_code == 404
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        until(lambda: served.store_check() == "ok")
        assert served.put(refused).status_code == 201
        stored = {item.item_id for batch in store.scan() for item in batch}
        assert stored == {*(item["item_id"] for item in FILMS), *written, refused}
        assert examine(store).findings == ()


class Stuck(EmbeddedStore):
    """A store that does not answer until it is let go, and then with an error."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "dummy", 3, layout())
        self.entered = threading.Event()
        self.let_go = threading.Event()
        self.calls = 0

    def delete(self, key: ItemKey) -> bool:
        self.calls += 1
        self.entered.set()
        assert self.let_go.wait(PATIENCE_SECONDS)
        raise StoreUnavailable("no answer")


def test_changes_that_waited_behind_a_failure_fail_with_it(tmp_path: Path) -> None:
    """Ten clients are not made to wait for ten timeouts, one after the other."""

    async def main(store: Stuck, writing: Writing) -> None:
        first = asyncio.create_task(writing.delete(ItemKey("films", "0")))
        await asyncio.to_thread(store.entered.wait, PATIENCE_SECONDS)
        behind = [asyncio.create_task(writing.delete(ItemKey("films", str(number)))) for number in range(1, 10)]
        await asyncio.sleep(0)
        store.let_go.set()
        outcomes = await asyncio.gather(first, *behind, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 10
        assert store.calls == 1
        with pytest.raises(StoreUnavailable):
            await writing.delete(ItemKey("films", "x"))
        assert store.calls == 2, "a change that came after the failure is tried"
        assert writing.refused
        registered = await writing.register([NewItem("films", "a", (1, 1, 1), (0,))])
        assert registered.created.all()
        assert not writing.refused

    store = Stuck(tmp_path)
    store.finish_seed()
    writing = Writing(LiveCatalogue(store), Admission(100), Metrics())
    asyncio.run(main(store, writing))
    writing.close()
    store.close()


@pytest.mark.parametrize("days", [1, -1])
def test_a_jump_of_the_clock_changes_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch, days: int) -> None:
    """On the day after or before, registrations elsewhere are followed, searches answer, and nothing times out."""
    clock = time.time
    with (
        serve(open_store(rig.proxy.url, "dummy", 3, layout(), serving=True)) as served,
        served.busy(),
    ):
        monkeypatch.setattr(time, "time", lambda: clock() + days * 86_400)
        other = open_store(rig.proxy.url, "dummy", 3, layout())
        codes, experts = (0,) * layout().levels, tuple(range(layout().experts_per_item))
        other.register([NewItem("films", "from-elsewhere", codes, experts)])
        until(lambda: served.client.get("/items/films/from-elsewhere").status_code == 200)
        assert served.put("after-the-jump").status_code == 201
        assert served.store_check() == "ok"
        other.close()
