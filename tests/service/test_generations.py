"""Two generations of one bundle side by side: pinned, switched and switched back without a failed request."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import redis
from dummy_engine import DummyEngine
from http_server import running, until, wait_until_ready
from places import LAYOUT, Place, new
from pydantic import SecretStr
from redis_server import RedisServer
from structlog.testing import capture_logs
from tiny_graphs import write_bundle
from typer.testing import CliRunner

from service.bundle.files import Bundle, read_manifest, write_manifest
from service.catalogue.current import TURN, current_of, make_current, turn
from service.catalogue.live import LiveCatalogue
from service.catalogue.migrating import Carried, carry, moves
from service.catalogue.opening import open_store, stored_generations
from service.catalogue.records import ItemKey, NewItem, StoredItem
from service.catalogue.seeding import open_catalogue
from service.catalogue.store import CatalogueStore
from service.cli.main import build
from service.client import NotFound, UnitokClient
from service.errors import ConfigError, NotReady, StoreUnavailable
from service.http import generations
from service.http.app import create_app
from service.http.generations import PIN, Generations
from service.opening import opened, warn_unless_current
from service.settings import Settings, read_settings

pytestmark = pytest.mark.usefixtures("few_buckets")
ITEMS = [{"item_id": f"i{number}", "domain": "films", "title": f"film {number}"} for number in range(10)]
BODY = {"history": [{"domain": "films", "title": "raw"}], "k": 3}


def engine_of(generation: int, name: str = "dummy") -> DummyEngine:
    engine = DummyEngine()
    manifest = engine.bundle.manifest.model_copy(update={"generation": generation, "name": name})
    engine.bundle = Bundle(engine.bundle.folder, manifest)
    return engine


class Replica:
    """A service of generations 1 and 2 on a place."""

    def __init__(
        self, place: Place, stack: ExitStack, held: bool = False, refresh_seconds: float = 0.02, ready: bool = True
    ) -> None:
        self.engines = {generation: engine_of(generation, place.name) for generation in (1, 2)}
        if held:
            self.engines[2].text_encoder.hold()
        chosen = Settings(refresh_seconds=refresh_seconds, drain_seconds=5, store=SecretStr(place.url))
        self.stores = {
            number: open_store(place.url, place.name, number, engine.layout) for number, engine in self.engines.items()
        }
        for store in self.stores.values():
            store.finish_seed()
            stack.callback(store.close)
        apps = [
            create_app(chosen, engine=engine, catalogue=LiveCatalogue(self.stores[number]))
            for number, engine in self.engines.items()
        ]
        self.app = Generations(apps, chosen.refresh_seconds)
        self.client = stack.enter_context(running(self.app))  # type: ignore[arg-type]
        if not ready:
            return
        wait_until_ready(self.client)
        if not held:
            until(lambda: self.ask("GET", "/readyz", 2).status_code == 200)

    def ask(self, method: str, path: str, pin: object = None, **more: Any) -> httpx.Response:
        return self.client.request(method, path, headers={} if pin is None else {PIN: str(pin)}, **more)

    def generation(self) -> int:
        found: int = self.ask("GET", "/bundle").json()["generation"]
        return found


def test_a_request_goes_to_the_current_generation_or_to_the_one_it_names(place: Place) -> None:
    with ExitStack() as stack:
        replica = Replica(place, stack)
        for pin, generation in ((None, 1), (1, 1), (2, 2)):
            response = replica.ask("POST", "/tokenize", pin, json={"items": ITEMS, "register": True})
            assert (response.status_code, response.json()["generation"]) == (200, generation)
            response = replica.ask("POST", "/recommend", pin, json=BODY)
            assert (response.json()["generation"], len(response.json()["items"])) == (generation, 3)
        replica.ask("DELETE", "/items/films/i1", 2)
        assert [replica.ask("GET", "/items/films/i1", pin).status_code for pin in (1, 2)] == [200, 404]
        for pin in ("3", "0", "x", "-1", "9" * 30, "²"):
            response = replica.client.get("/bundle", headers={PIN: pin.encode()})
            assert response.status_code == 404
            assert response.json()["type"] == "urn:unitok:problem:unknown-generation"
            assert response.json()["detail"].endswith("must be a generation that /bundle names")
            assert response.headers["X-Request-ID"] == response.json()["request_id"]
        metrics = replica.ask("GET", "/metrics").text
        assert 'unitok_problems_total{type="unknown-generation"} 6.0' in metrics
        address = str(replica.client.base_url)
        for generation, found in ((None, 1), (1, 1), (2, 2)):
            with UnitokClient(address, generation=generation) as client:
                assert client.bundle().generation == found
        with (
            UnitokClient(address, generation=3) as client,
            pytest.raises(NotFound, match="must be a generation that"),
        ):
            client.bundle()
        assert "unitok_current_generation 1.0" in replica.ask("GET", "/metrics", 2).text


@contextmanager
def clients(replica: Replica, seen: list[list[int]]) -> Iterator[None]:
    """Ask without pause while the block runs; every answer must be right, and is noted by its generation."""
    ended = threading.Event()
    failed: list[str] = []

    def ask(path: str, body: dict[str, Any], mine: list[int]) -> None:
        with httpx.Client(base_url=replica.client.base_url, timeout=30) as client:
            while not ended.is_set():
                response = client.post(path, json=body)
                if response.status_code == 200 and response.json()["items"]:
                    mine.append(response.json()["generation"])
                else:
                    failed.append(response.text)

    asked: list[tuple[str, dict[str, Any]]] = [("/recommend", BODY), ("/tokenize", {"items": ITEMS[:2]})]
    asked.append(("/tokenize", {"items": ITEMS[2:4], "register": True}))
    threads = [threading.Thread(target=ask, args=(*what, mine)) for what, mine in zip(asked, seen, strict=True)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert failed == []


def test_all_replicas_switch_and_switch_back_under_load(place: Place) -> None:
    with ExitStack() as stack:
        one, two = Replica(place, stack), Replica(place, stack)
        for generation in (1, 2):
            one.ask("POST", "/tokenize", generation, json={"items": ITEMS, "register": True})
        until(lambda: all(len(two.ask("POST", "/recommend", at, json=BODY).json()["items"]) == 3 for at in (1, 2)))
        seen: list[list[int]] = [[], [], []]
        with clients(two, seen):
            for wanted in (2, 1, 2):
                until(lambda: all(seen))
                make_current(one.stores, wanted)
                until(lambda wanted=wanted: {one.generation(), two.generation()} == {wanted})
                until(lambda wanted=wanted: all(mine[-1] == wanted for mine in seen))
        for mine in seen:
            changes = [after for before, after in zip([0, *mine], mine, strict=False) if before != after]
            assert changes == [1, 2, 1, 2]


def test_a_switch_over_http_is_followed_by_all_replicas(place: Place) -> None:
    with ExitStack() as stack:
        one, two = Replica(place, stack), Replica(place, stack)

        def switch(generation: int, pin: int | None = None) -> httpx.Response:
            return one.ask("PUT", "/generations/current", pin, json={"generation": generation})

        for before, wanted in ((None, 2), (2, 2), (2, 1), (1, 2)):
            response = switch(wanted)
            assert (response.status_code, response.json()) == (
                200,
                {"bundle": place.name, "before": before, "current": wanted},
            )
            until(lambda wanted=wanted: {one.generation(), two.generation()} == {wanted})
        incomplete = open_store(place.url, place.name, 3, one.engines[1].layout)
        stack.callback(incomplete.close)
        for generation, status, kind, detail in (
            (3, 409, "generation-incomplete", "generation 3: its catalogue is not complete"),
            (
                4,
                404,
                "unknown-generation",
                f"{place.name}:4 is not in the store, or was dropped; the store has generations: 1, 2, 3",
            ),
            (0, 422, "invalid-input", "generation"),
        ):
            for pin in (None, 1):
                response = switch(generation, pin)
                assert (response.status_code, response.json()["type"]) == (status, f"urn:unitok:problem:{kind}")
                assert detail in response.json()["detail"]
        one.stores[1].drop()
        assert switch(1).status_code == 404
        assert {one.generation(), two.generation()} == {2}


def test_a_generation_that_is_not_ready_here_is_waited_for(place: Place) -> None:
    with ExitStack() as stack:
        replica = Replica(place, stack, held=True)
        make_current(replica.stores, 2)
        assert replica.ask("GET", "/readyz", 2).status_code == 503
        asked = [replica.generation() for _ in range(20)]
        assert set(asked) == {1}
        replica.engines[2].text_encoder.go_on.set()
        until(lambda: replica.generation() == 2)


def test_a_replica_that_starts_after_a_switch_answers_by_the_current_generation_from_the_first(place: Place) -> None:
    with ExitStack() as stack:
        make_current(Replica(place, stack).stores, 2)
        restarted = Replica(place, stack, held=True, refresh_seconds=60, ready=False)
        assert restarted.generation() == 2
        until(lambda: restarted.ask("GET", "/readyz", 1).status_code == 200)
        assert restarted.ask("GET", "/readyz").status_code == 503, "what is current here is not ready"
        restarted.engines[2].text_encoder.go_on.set()
        wait_until_ready(restarted.client)
        put = restarted.ask("PUT", "/items/films/new", json={"title": "new"})
        assert (put.status_code, put.json()["generation"]) == (201, 2)


def test_a_store_that_does_not_say_which_is_current_leaves_the_first(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(store: CatalogueStore) -> int:
        raise StoreUnavailable("no answer")

    with ExitStack() as stack:
        make_current(Replica(place, stack).stores, 2)
        monkeypatch.setattr(generations, "turn", unreachable)
        restarted = Replica(place, stack)
        assert restarted.generation() == 1
        monkeypatch.undo()
        until(lambda: restarted.generation() == 2)


def test_a_number_that_nobody_can_read_ends_no_following(place: Place) -> None:
    """The task that follows the store ended with the error, unseen; no later switch reached the replica."""
    with ExitStack() as stack:
        replica = Replica(place, stack)
        make_current(replica.stores, 2)
        until(lambda: replica.generation() == 2)
        with capture_logs() as events:
            replica.stores[1].save_checkpoint(TURN, "not a number")
            until(lambda: any(event["log_level"] == "error" for event in events))
            assert replica.generation() == 2
            replica.stores[1].save_checkpoint(TURN, "9")
            until(lambda: replica.generation() == 1)


def test_a_store_that_lost_which_generation_is_current_is_told_again(own_server: RedisServer) -> None:
    """A replica that started after the loss took the first one, and the others went on with the current one."""
    place = Place(own_server.url, own_server)
    with ExitStack() as stack, redis.Redis.from_url(own_server.url) as client:
        one = Replica(place, stack)
        make_current(one.stores, 2)
        until(lambda: one.generation() == 2)
        client.flushall()
        two = Replica(place, stack)
        until(lambda: two.generation() == 2)
        assert one.generation() == 2
        assert turn(two.stores[2]) == 1
        make_current(one.stores, 1)
        until(lambda: {one.generation(), two.generation()} == {1})


def test_a_start_says_that_another_generation_is_current(tiny_bundle: Path, tmp_path: Path) -> None:
    url, manifest = f"embedded:{tmp_path / 'store'}", read_manifest(tiny_bundle)
    name, number = manifest.name, manifest.generation
    settings = read_settings(bundle=tiny_bundle, store=url, threads=1)
    with opened(settings) as part, capture_logs() as logs:
        warn_unless_current(settings, [part])
        part.catalogue.store.save_checkpoint(TURN, "1")
        warn_unless_current(settings, [part])
        assert logs == []
        with closing(open_store(url, name, number + 1, part.catalogue.layout)) as other:
            other.save_checkpoint(TURN, "2")
        warn_unless_current(settings, [part])
        (said,) = logs
        assert said["event"] == "another generation of the bundle is current in the store"
        assert (said["current"], said["served"]) == (number + 1, [number])
        (tmp_path / "store" / f"{name}@9.sqlite3").write_text("no catalogue")
        warn_unless_current(settings, [part])


def test_bundles_that_do_not_belong_together_are_refused(place: Place) -> None:
    def app(generation: int, name: str) -> Any:
        engine = engine_of(generation, name)
        store = open_store(place.url, place.name, generation, engine.layout)
        store.finish_seed()
        made.append(store)
        return create_app(Settings(), engine=engine, catalogue=LiveCatalogue(store))

    made: list[CatalogueStore] = []
    for apps in ([app(1, "a"), app(1, "a")], [app(1, "a"), app(2, "b")]):
        with pytest.raises(ConfigError, match="must be generations of one bundle, each another"):
            Generations(apps, 1)
    for store in made:
        store.close()


def test_the_one_made_current_last_is_current(place: Place) -> None:
    stores = {generation: place.open(generation=generation) for generation in (1, 2, 3)}
    assert current_of({number: turn(store) for number, store in stores.items()}) is None
    chance = random.Random(0)
    for switches in range(1, 16):
        generation = chance.choice((1, 2, 3))
        make_current(stores, generation)
        before = {number: turn(store) for number, store in stores.items()}
        assert current_of(before) == generation
        assert max(before.values()) <= switches
        make_current(stores, generation)
        assert {number: turn(store) for number, store in stores.items()} == before, "it was current already"


def test_an_incomplete_generation_cannot_be_made_current(place: Place) -> None:
    stores = {1: place.open(), 2: place.open(generation=2, seeded=False)}
    make_current(stores, 1)
    with pytest.raises(ConfigError, match="generation 2: its catalogue is not complete"):
        make_current(stores, 2)
    assert current_of({number: turn(store) for number, store in stores.items()}) == 1


def upside_down(domains: Any, contents: Any) -> Any:
    """Codes of a next generation: from the number in the title."""
    return np.array([(255 - int(content.title), 7, 1) for content in contents])


def test_items_are_carried_and_compared(place: Place) -> None:
    old, target = place.open(), place.open(generation=2)
    old.register([new(str(number), (number, 1), title=str(number), content='{"price":1.0}') for number in range(9)])
    old.register([new("no text", (200, 1)), new("9", title="9", domain="books")])
    old.delete(ItemKey("films", "3"))
    target.register([NewItem("films", "4", (1, 1), (1,), "kept"), NewItem("films", "3", (2, 2), (2,), "own")])
    target.register([NewItem("films", "5", (1, 1), (1,))])
    target.delete(ItemKey("films", "5"))
    assert carry(old, target, upside_down, since={}) == Carried(7, 2, 1, 1, 0, 1)
    (item,) = target.get([ItemKey("films", "8")])
    assert item is not None
    assert (item.title, item.content) == ("8", '{"price":1.0}')
    assert LAYOUT.unpack(np.array([item.packed], dtype=np.uint64))[0].tolist() == [247, 7, 1, 0]
    assert target.get([ItemKey("films", "3"), ItemKey("films", "5")]) == [None, None], "deleted ones stay deleted"
    head = target.head()
    assert carry(old, target, upside_down, since={}) == Carried(0, 9, 0, 1, 0)
    assert target.head() == head
    found = moves(old, target)
    assert (found.common, found.moved, found.only_old, found.only_new) == (8, 8, 2, 0)
    assert moves(old, old).moved == 0
    # Once the next generation is current, it knows best what is deleted.
    target.register([NewItem("films", "3", (2, 2), (2,), "wanted again")])
    carry(old, target, upside_down, since=None)
    assert target.get([ItemKey("films", "3")]) != [None]


def test_renewed_titles_and_contents_are_carried_until_the_switch(place: Place) -> None:
    old, target = place.open(), place.open(generation=2)
    began: dict[ItemKey, str | None] = {ItemKey("films", "1"): "1", ItemKey("films", "2"): "2"}
    old.register([new("0", title="0"), new("1", title="1"), new("2", title="2"), new("3", title="3")])
    target.register([NewItem("films", number, (1, 1), (1,), "from the bundle") for number in ("1", "2")])
    old.register([new("2", title="renewed before")])
    assert carry(old, target, upside_down, since=began) == Carried(2, 2, renewed=1)

    def held() -> dict[str, tuple[int, str | None, str | None]]:
        found = target.get([ItemKey("films", str(number)) for number in range(4)])
        return {item.item_id: (item.packed, item.title, item.content) for item in found if item is not None}

    before = held()
    assert before["1"][1] == "from the bundle", "never renewed in the old generation"
    old.register([new("0", title="no number"), new("3", title="3", content='{"brand":"b"}')])
    old.register([NewItem("films", "1", (1, 2), (3,), "1", '{"brand":"b"}')])
    target.delete(ItemKey("films", "2"))
    assert carry(old, target, upside_down, since=began) == Carried(0, 4, renewed=3)
    assert held() == {
        "0": (before["0"][0], "no number", None),
        "1": (before["1"][0], "1", '{"brand":"b"}'),
        "3": (before["3"][0], "3", '{"brand":"b"}'),
    }
    head = target.head()
    carry(old, target, upside_down, since=began)
    assert target.head() == head
    # From the switch on the next generation's own are the newer ones.
    target.register([NewItem("films", "0", (1, 1), (1,), "newer")])
    assert carry(old, target, upside_down, since=None).renewed == 0
    assert held()["0"][1] == "newer"


def test_a_dropped_generation_is_gone_for_good(place: Place) -> None:
    old, kept = place.open(), place.open(generation=2)
    old.register([new(str(number), title="t") for number in range(50)])
    kept.register([new("a")])
    live = LiveCatalogue(old)
    follower = place.open()
    old.drop()
    item = StoredItem("films", "b", 0)
    for refused in (
        lambda: old.register([new("b")]),
        lambda: follower.delete(ItemKey("films", "1")),
        live.refresh,
        lambda: live.register([new("c")]),
        # A process that fills it does not open it again.
        lambda: follower.seed([item]),
        follower.finish_seed,
        lambda: follower.restore([item]),
        lambda: follower.save_checkpoint("work", "1"),
        lambda: follower.register([new("b")]),
    ):
        with pytest.raises(NotReady):
            refused()
    assert live.domains() == {"films": 50}, "who serves it goes on from memory"
    assert list(old.rows()) == []
    with pytest.raises(ConfigError, match="was dropped"):
        place.open()
    found = {each.number: each.dropped for each in stored_generations(place.url) if each.bundle == place.name}
    assert found == {1: True, 2: False}
    assert kept.totals().items == {"films": 1}
    old.drop()


def test_the_commands_lead_from_one_generation_to_the_next(tmp_path: Path) -> None:
    url = f"embedded:{tmp_path / 'store'}"
    first, second = write_bundle(tmp_path / "first"), write_bundle(tmp_path / "second")
    number = first.manifest.generation
    write_manifest(second.folder, second.manifest.model_copy(update={"generation": number + 1}))
    second = Bundle.open(second.folder)
    store = open_catalogue(url, first)
    layout = store.layout
    experts = (0,) * layout.experts_per_item
    store.register([NewItem("films", f"x{n}", (n % 4,) * layout.levels, experts, f"{n} {n + 1}") for n in range(20)])

    def run(*words: str, bundle: Bundle | None = second, code: int = 0) -> Any:
        options = ["--store", url, *(["--bundle", str(bundle.folder)] if bundle else [])]
        result = CliRunner().invoke(build(), ["catalogue", *words, *options])
        assert result.exit_code == code, (result.output, result.exception)
        return json.loads(result.output) if code == 0 else str(result.exception)

    before = ("--from", str(first.folder))
    carried = run("carry", *before)
    assert (carried["from"], carried["to"], carried["carried"]) == (number, number + 1, 20)
    own = next(item for batch in store.scan() for item in batch if not item.item_id.startswith("x"))
    with closing(open_catalogue(url, second)) as next_store:
        next_store.register([NewItem(*own.key, (0,) * layout.levels, experts, "newer, of the bundle")])
    store.register([NewItem("films", "x1", (1,) * layout.levels, experts, "renewed")])
    repeated = run("carry", *before)
    assert (repeated["carried"], repeated["renewed"]) == (0, 1)
    for command in ("carry", "compare"):
        assert "must be two generations of one bundle" in run(command, *before, bundle=first, code=1)
    found = run("compare", *before)
    assert (found["common"], found["only_old"], found["only_new"]) == (22, 0, 0)
    assert found["share_moved"] == round(found["moved"] / 22, 4) > 0
    requests = tmp_path / "requests.jsonl"
    for bad, message in (
        ("[1, 2]", "line 2: must be a JSON object"),
        ('{"history": []}', "line 2: history: must hold at least 1"),
        ("{", "line 2: Expecting property name"),
    ):
        requests.write_text('{"history": [{"domain": "films", "title": "\u2028"}]}\n' + bad, encoding="utf-8")
        said = run("compare", *before, "--histories", str(requests), code=1)
        assert said.startswith(f"{requests}: {message}")
        assert said.endswith("; must be the body of a POST /recommend")
    name = first.manifest.name
    assert "none is current" in run("drop", name, str(number), bundle=None, code=1)
    assert run("switch") == {"bundle": name, "before": None, "current": number + 1}
    assert run("switch", bundle=first) == {"bundle": name, "before": number + 1, "current": number}
    assert "it is current" in run("drop", name, str(number), bundle=None, code=1)
    assert run("switch")["before"] == number
    assert run("drop", name, str(number), bundle=None)["dropped"] == number
    assert "is not in the store" in run("drop", name, str(number), bundle=None, code=1)
    assert "is not in the store, or was dropped; the store has generations:" in run("switch", bundle=first, code=1)
    assert "was dropped, and its IDs" in run("carry", *before, code=1)
    said = run("status", bundle=None)
    assert said[0] == {"bundle": name, "generation": number, "dropped": True}
    assert (said[1]["items"], said[1]["made_current"]) == (22, 3)
    store.close()


def test_the_real_command_serves_both_and_follows_a_switch(tiny_bundle: Path, tmp_path: Path) -> None:
    first = Bundle.open(tiny_bundle)
    shutil.copytree(tiny_bundle, tmp_path / "next")
    number = first.manifest.generation
    write_manifest(tmp_path / "next", first.manifest.model_copy(update={"generation": number + 1}))
    environment = {**os.environ, "UNITOK_STORE": f"embedded:{tmp_path / 'store'}", "UNITOK_THREADS": "1"}
    unitok = [sys.executable, "-m", "service.cli.main"]
    command = [*unitok, "serve", "--bundle", str(tiny_bundle), "--beside", str(tmp_path / "next"), "--port", "0"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        address = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        assert address is not None
        with httpx.Client(base_url=address.group(), timeout=30) as client:
            until(lambda: client.get("/readyz", headers={PIN: str(number + 1)}).status_code == 200)
            wait_until_ready(client)
            assert client.get("/bundle").json()["generation"] == number
            known = {name: client.get("/domains").json()["domains"][0][name] for name in ("domain",)}
            body = {"history": [{**known, "title": "a moss"}], "k": 5}
            lists = [client.post("/recommend", json=body, headers={PIN: str(at)}).json() for at in (number, number + 1)]
            assert [found["generation"] for found in lists] == [number, number + 1]
            assert lists[0]["items"] == lists[1]["items"], "the same networks under another number"
            switch = [*unitok, "catalogue", "switch", "--bundle", str(tmp_path / "next")]
            subprocess.run(switch, env=environment, check=True, stdout=subprocess.PIPE)
            until(lambda: client.get("/bundle").json()["generation"] == number + 1)
            own = {"item_id": "n", "domain": "next-only", "title": "a moss"}
            put = {"items": [own], "register": True}
            assert client.post("/tokenize", json=put, headers={PIN: str(number + 1)}).status_code == 200
            bodies = [{**body, "domains": ["next-only"]}, body, {**body, "domains": ["none"]}]
            (tmp_path / "requests.jsonl").write_text("".join(json.dumps(each) + "\n" for each in bodies))
            compare = [*unitok, "catalogue", "compare", "--from", str(tiny_bundle), "--bundle", str(tmp_path / "next")]
            said = subprocess.run(
                [*compare, "--histories", str(tmp_path / "requests.jsonl")],
                env=environment,
                check=True,
                stdout=subprocess.PIPE,
            )
            found = json.loads(said.stdout)
            assert (found["moved"], found["replayed"], found["agreement"]) == (0, 3, 1.0)
            assert found["unanswerable"] == {str(number): 2, str(number + 1): 1}
            assert found["common"] > 100
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()
