"""What only one kind of store can do wrong."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from places import LAYOUT, Place, everything, fill_domains, new, suffixes
from redis_groups import until
from redis_server import RedisServer

from service.catalogue.embedded import EmbeddedStore
from service.catalogue.embedded_tables import SCHEMA
from service.catalogue.live import Agreement, LiveCatalogue
from service.catalogue.opening import open_store, stored_generations
from service.catalogue.records import ItemKey, StoredItem
from service.catalogue.store_rules import MAX_DOMAINS
from service.errors import BundleError, ConfigError, LimitExceeded, StoreUnavailable

OTHER_LAYOUT = replace(LAYOUT, levels=LAYOUT.levels + 1)


class TestRedisOnly:
    """What only a server can do wrong."""

    def test_a_server_that_is_down_is_said_without_the_password(self, tmp_path: Path) -> None:
        with RedisServer(tmp_path / "own", password="se-cret") as own:
            store = open_store(own.url, "b", 1, LAYOUT)
            store.finish_seed()
            own.kill()
            for call in (
                lambda: store.register([new("a")]),
                lambda: store.get([ItemKey("films", "a")]),
                lambda: store.changes(0),
                lambda: list(store.scan()),
                store.status,
                lambda: open_store(own.url, "b", 1, LAYOUT),
            ):
                with pytest.raises(StoreUnavailable) as caught:
                    call()
                assert "se-cret" not in str(caught.value)
                assert str(own.port) in str(caught.value)
            own.start()
            assert suffixes(store, [new("a")]) == [0]
            store.close()

    def test_a_wrong_password_is_said(self, redis_server: RedisServer) -> None:
        with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1") as caught:
            open_store(f"redis://:wr-ong@127.0.0.1:{redis_server.port}", "b", 1, LAYOUT)
        assert "wr-ong" not in str(caught.value)

    def test_a_server_that_makes_room_by_removing_keys_is_refused(self, own_server: RedisServer) -> None:
        with redis.Redis.from_url(own_server.url) as client:
            for policy in ("allkeys-lru", "allkeys-random"):
                client.config_set("maxmemory-policy", policy)
                with pytest.raises(ConfigError, match=f"maxmemory-policy is {policy}.*must be noeviction"):
                    open_store(own_server.url, "b", 1, LAYOUT)
            assert client.dbsize() == 0
            client.acl_setuser(
                "some", enabled=True, passwords=["+pw"], keys=["*"], channels=["*"], commands=["+@all", "-info"]
            )
            open_store(own_server.url.replace("//", "//some:pw@"), "b", 1, LAYOUT).close()
            client.config_set("maxmemory-policy", "volatile-lru")
            open_store(own_server.url, "b", 1, LAYOUT).close()

    def test_an_opening_that_is_refused_leaves_no_connection(self, own_server: RedisServer) -> None:
        open_store(own_server.url, "b", 1, LAYOUT).close()
        with redis.Redis.from_url(own_server.url) as client:
            before = len(client.client_list())
            with pytest.raises(ConfigError) as refused:
                open_store(own_server.url, "b", 1, OTHER_LAYOUT)
            # Who keeps an error keeps the frames that it passed, and what they hold.
            assert refused.value.__traceback__ is not None
            until(lambda: len(client.client_list()) == before)

    def test_an_id_given_twice_is_no_mistake_of_the_caller(self, own_server: RedisServer) -> None:
        """A server that evicted a group's counter began again at suffix 0."""
        store = open_store(own_server.url, "b", 1, LAYOUT)
        store.finish_seed()
        live = LiveCatalogue(store)
        live.register([new("a"), new("b", (9, 9))])
        with redis.Redis.from_url(own_server.url) as client:
            client.delete(*client.keys("*:groups:*"))
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="gave a semantic ID that another item has here"):
                live.register([new("c"), new("d", (8, 8))])
            assert live.domains() == {"films": 2}
            assert live.lookup([ItemKey("films", "c")]) == [None]
        live.register([new("e", (7, 7))])
        assert live.lookup([ItemKey("films", "e")]) != [None]
        store.close()

    def test_a_server_without_room_stores_nothing_of_a_batch(self, tmp_path: Path) -> None:
        with RedisServer(tmp_path / "own") as own:
            store = open_store(own.url, "b", 1, LAYOUT)
            store.finish_seed()
            store.register([new("a")])
            store._redis.config_set("maxmemory", 1)  # type: ignore[attr-defined]
            with pytest.raises(StoreUnavailable, match="maxmemory"):
                store.register([new("b"), new("c")])
            store._redis.config_set("maxmemory", 0)  # type: ignore[attr-defined]
            assert set(everything(store)) == {ItemKey("films", "a")}
            assert suffixes(store, [new("c")]) == [1]
            store.close()

    def test_all_keys_of_a_generation_share_a_slot(self, redis_server: RedisServer) -> None:
        place = Place(redis_server.url, redis_server)
        store = place.open()
        store.register([new("a", title="t", content="{}"), new("b", (4, 4))])
        store.save_checkpoint("x", "y")
        keys = [key.decode() for key in store._redis.keys(f"*{place.name}:*")]  # type: ignore[attr-defined]
        assert len(keys) >= 8
        assert {key.split("}")[0] for key in keys} == {f"unitok:{{{place.name}:1"}
        place.close()

    def test_numbers_beyond_the_limit_that_a_server_holds_are_passed_over(self, redis_server: RedisServer) -> None:
        """They were stored for domains that were refused; whoever read them could not even start."""
        place = Place(redis_server.url, redis_server)
        store = place.open()
        fill_domains(store, MAX_DOMAINS)
        beyond = {"one too many": MAX_DOMAINS, "two too many": MAX_DOMAINS + 1}
        store._redis.hset(store._keys.key("domains"), mapping=beyond)  # type: ignore[attr-defined]
        store.register([new("a", domain="domain 7")])
        live = LiveCatalogue(place.open())
        assert live.compare() is Agreement.SAME
        assert live.domains() == {"domain 7": 1}
        for domain in beyond:
            with pytest.raises(LimitExceeded, match=domain):
                live.register([new("a", domain=domain)])
            assert live.get([ItemKey(domain, "a")]) == [None]
            assert not live.delete(ItemKey(domain, "a"))
        place.close()


class TestEmbeddedOnly:
    def test_two_items_seeded_with_one_id_are_an_error(self, tmp_path: Path) -> None:
        store = open_store(f"embedded:{tmp_path}", "b", 1, LAYOUT)
        with pytest.raises(BundleError, match="semantic ID of another item"):
            store.seed([StoredItem("films", "a", 8), StoredItem("films", "b", 8)])
        assert everything(store) == {}
        store.close()

    def test_a_folder_that_cannot_be_made_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreUnavailable, match="file"):
            open_store(f"embedded:{tmp_path / 'file' / 'below'}", "b", 1, LAYOUT)

    def test_a_damaged_file_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "b@1.sqlite3").write_bytes(b"no database" * 1000)
        with pytest.raises(StoreUnavailable, match="not a database"):
            open_store(f"embedded:{tmp_path}", "b", 1, LAYOUT)

    def test_a_change_costs_the_same_however_many_domains_there_are(self, tmp_path: Path) -> None:
        """In steps of SQLite's machine, which a busy one does not make more."""
        store = EmbeddedStore(tmp_path, "b", 1, LAYOUT)
        store.finish_seed()
        steps = [0]

        def count() -> int:
            steps[0] += 1
            return 0

        def cost_of(item_id: str) -> int:
            steps[0] = 0
            store._file._writer.set_progress_handler(count, 1)
            store.register([new(item_id)])
            store.delete(ItemKey("films", item_id))
            store._file._writer.set_progress_handler(None, 1)
            return steps[0]

        cost_of("first")
        few = cost_of("a")
        store.register([new("a", domain=f"domain {number}") for number in range(1000)])
        assert cost_of("b") < few + 500
        store.close()

    @pytest.mark.parametrize("why", ["another layout", "dropped", "no catalogue"])
    def test_an_opening_that_is_refused_leaves_no_file_open(self, tmp_path: Path, why: str) -> None:
        store = open_store(f"embedded:{tmp_path}", "b", 1, LAYOUT)
        if why == "dropped":
            store.drop()
        store.close()
        if why == "no catalogue":
            (tmp_path / "b@1.sqlite3").write_bytes(b"no database" * 1000)
        with pytest.raises((ConfigError, StoreUnavailable)) as refused:
            open_store(f"embedded:{tmp_path}", "b", 1, OTHER_LAYOUT if why == "another layout" else LAYOUT)
        assert refused.value.__traceback__ is not None
        files = [os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
        assert [file for file in files if file.startswith(str(tmp_path))] == []

    @pytest.mark.parametrize("how", ["deleted", "replaced", "deleted within a transaction"])
    def test_a_file_that_is_no_longer_there_takes_no_change(self, tmp_path: Path, how: str) -> None:
        """What went on into the open file was acknowledged, and gone after a restart."""
        folder, away = tmp_path / "store", tmp_path / "away"
        store = EmbeddedStore(folder, "b", 1, LAYOUT)
        store.finish_seed()
        live = LiveCatalogue(store)
        live.register([new("a")])

        def delete_within() -> None:
            with store._file.transaction() as cursor:
                cursor.execute("DELETE FROM item")
                folder.rename(away)

        if how == "deleted within a transaction":
            with pytest.raises(StoreUnavailable, match="deleted or replaced"):
                delete_within()
        else:
            folder.rename(away)
        if how == "replaced":
            shutil.copytree(away, folder)
        for call in (
            lambda: live.register([new("b")]),
            lambda: live.delete(ItemKey("films", "a")),
            live.refresh,
            lambda: store.get([ItemKey("films", "a")]),
            lambda: list(store.rows()),
        ):
            with pytest.raises(StoreUnavailable, match="was deleted or replaced while it was in use"):
                call()
        assert live.domains() == {"films": 1}
        assert how == "replaced" or not folder.exists()
        shutil.rmtree(folder, ignore_errors=True)
        away.rename(folder)
        assert suffixes(store, [new("b")]) == [1], "the file is back"
        assert set(everything(store)) == {ItemKey("films", "a"), ItemKey("films", "b")}
        store.close()

    def test_a_log_that_is_no_longer_there_takes_no_change(self, tmp_path: Path) -> None:
        """What was committed to the open log was acknowledged, and gone after SIGKILL with all that it held before."""
        store = EmbeddedStore(tmp_path, "b", 1, LAYOUT)
        store.finish_seed()
        store.register([new("a")])
        path = tmp_path / "b@1.sqlite3-wal"
        log = path.read_bytes()
        path.unlink()
        for replaced in (False, True):
            if replaced:
                path.write_bytes(log)
            with pytest.raises(
                StoreUnavailable, match=r"b@1\.sqlite3-wal, was deleted or replaced while it was in use"
            ):
                store.register([new("b")])
        path.unlink()
        store.close()
        store = EmbeddedStore(tmp_path, "b", 1, LAYOUT)
        assert store.seeded()
        assert set(everything(store)) == {ItemKey("films", "a")}, "closing writes into the file what the log held"
        store.close()

    def test_files_that_hold_no_generation_are_passed_over(self, tmp_path: Path) -> None:
        open_store(f"embedded:{tmp_path}", "b", 1, LAYOUT).close()
        (tmp_path / "b@2.sqlite3").touch()  # Creation was killed before anything was written,
        with closing(sqlite3.connect(tmp_path / "b@3.sqlite3")) as connection:  # or before the layout was.
            connection.executescript(SCHEMA)
        (tmp_path / "b@1.sqlite3").with_name("b@1 of yesterday.sqlite3").write_text("")
        url = f"embedded:{tmp_path}"
        assert [each.number for each in stored_generations(url)] == [1]
        for number in (2, 3):
            open_store(url, "b", number, LAYOUT).close()
        assert [each.number for each in stored_generations(url)] == [1, 2, 3]
        (tmp_path / "b@4.sqlite3").write_bytes(b"no database" * 1000)
        with pytest.raises(StoreUnavailable, match=r"b@4.*not a database"):
            stored_generations(url)
