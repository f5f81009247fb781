"""A store filled with the bundle's own catalogue: whole, resumed, and refused when the catalogue contradicts itself."""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from dummy_engine import ONE_FOR_ALL, dummy_manifest
from redis_server import RedisServer

from service.bundle.files import Bundle, hash_files
from service.bundle.manifest import CataloguePart, Manifest
from service.catalogue import seeding, sqlite_file
from service.catalogue.live import LiveCatalogue
from service.catalogue.opening import open_store
from service.catalogue.records import ItemKey, NewItem, StoredItem
from service.catalogue.seeding import open_catalogue, read_bundle_catalogue
from service.catalogue.store import CatalogueStore
from service.cli.serve import first_item
from service.errors import BundleError, ConfigError, NotReady, StoreUnavailable


def frame_of(rows: list[tuple[str, str, str | None, list[int], list[int], int]]) -> pl.DataFrame:
    schema = {
        "domain": pl.String,
        "item_id": pl.String,
        "title": pl.String,
        "codes": pl.List(pl.Int64),
        "experts": pl.List(pl.UInt16),
        "suffix": pl.Int64,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


ROWS = [
    ("films", "a", "A", [1, 2, 3], [1], 0),
    ("films", "b", None, [1, 2, 3], [1], 1),
    ("books", "a", "other", [1, 2, 3], [1], 0),
    *(("films", f"i{n}", f"t{n}", [7, n // 8, n % 8], [0], 0) for n in range(30)),
]


def bundle_of(folder: Path, frame: pl.DataFrame, **changes: Any) -> Bundle:
    (folder / "catalogue").mkdir(parents=True)
    frame.write_parquet(folder / "catalogue" / "items.parquet")
    manifest: Manifest = dummy_manifest(ONE_FOR_ALL)
    part = CataloguePart(items=changes.get("items", len(frame)))
    return Bundle(folder, manifest.model_copy(update={"catalogue": part, "files": hash_files(folder)}))


@pytest.fixture(params=["embedded", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "embedded":
        return f"embedded:{tmp_path / 'store'}"
    server: RedisServer = request.getfixturevalue("redis_server")
    # Each test brings its own catalogue under the same bundle name, so each takes an empty database.
    databases = request.session.stash.setdefault(DATABASES, [])
    databases.append(len(databases) + 1)
    return f"{server.url}/{databases[-1]}"


DATABASES = pytest.StashKey[list[int]]()


def empty_store(url: str, bundle: Bundle) -> CatalogueStore:
    """The store of a bundle's IDs, before its own items are brought in."""
    manifest = bundle.manifest
    return open_store(url, manifest.name, manifest.generation, manifest.token_layout(manifest.recommenders[0]))


def everything(store: CatalogueStore) -> dict[ItemKey, StoredItem]:
    return {item.key: item for batch in store.scan() for item in batch}


def test_a_new_store_holds_the_bundles_items_with_their_ids(tmp_path: Path, url: str) -> None:
    bundle = bundle_of(tmp_path / "bundle", frame_of(ROWS))
    store = open_catalogue(url, bundle)
    found = everything(store)
    assert len(found) == len(ROWS)
    for domain, item_id, title, codes, experts, suffix in ROWS:
        item = found[ItemKey(domain, item_id)]
        values = store.layout.unpack(np.array([item.packed], dtype=np.uint64))[0].tolist()
        assert (values, item.title) == ([*codes, *experts, suffix], title)
    registered = store.register([NewItem("films", "c", (1, 2, 3), (1,))])
    assert registered.values[0].tolist() == [1, 2, 3, 1, 2]
    live = LiveCatalogue(store)
    assert live.domains() == {"films": 33, "books": 1}
    store.delete(ItemKey("films", "a"))
    store.close()
    again = open_catalogue(url, bundle)
    assert again.status().items == {"films": 32, "books": 1}, "opening again revives nothing"
    again.close()


def test_a_bundle_whose_folder_looks_like_a_pattern_is_opened(tmp_path: Path, url: str) -> None:
    bundle = bundle_of(tmp_path / "bundle[1]", frame_of(ROWS))
    store = open_catalogue(url, bundle)
    assert len(everything(store)) == len(ROWS)
    assert first_item(bundle)["domain"] == ROWS[0][0]
    store.close()


def test_an_interrupted_start_goes_on_where_it_stopped(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seeding, "SEED_ROWS", 10)
    bundle = bundle_of(tmp_path / "bundle", frame_of(ROWS))
    store = empty_store(url, bundle)
    seeded: list[int] = []
    real = type(store).seed

    def failing(self: CatalogueStore, items: list[StoredItem]) -> None:
        if len(seeded) == 2:
            raise StoreUnavailable("gone")
        seeded.append(len(items))
        real(self, items)  # type: ignore[arg-type]

    monkeypatch.setattr(type(store), "seed", failing)
    with pytest.raises(StoreUnavailable):
        open_catalogue(url, bundle)
    with pytest.raises(NotReady):
        store.register([NewItem("films", "x", (1, 2, 3), (1,))])
    seeded.clear()
    open_catalogue(url, bundle).close()
    assert sum(seeded) == len(ROWS) - 20
    assert len(everything(store)) == len(ROWS)
    store.close()


def test_another_export_is_not_counted_by_the_rows_of_the_one_before(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seeding, "SEED_ROWS", 10)
    bundle = bundle_of(tmp_path / "bundle", frame_of(ROWS))
    store = empty_store(url, bundle)
    finish = type(store).finish_seed

    def killed(self: CatalogueStore) -> None:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(type(store), "finish_seed", killed)
    with pytest.raises(StoreUnavailable):
        open_catalogue(url, bundle)
    monkeypatch.setattr(type(store), "finish_seed", finish)
    more = [("games", f"g{n}", None, [5, n // 8, n % 8], [0], 0) for n in range(15)]
    open_catalogue(url, bundle_of(tmp_path / "again", frame_of([*more, *ROWS]))).close()
    assert len(everything(store)) == len(more) + len(ROWS)
    store.close()


def test_replicas_that_start_at_once_agree(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeding, "SEED_ROWS", 3)
    bundle = bundle_of(tmp_path / "bundle", frame_of(ROWS))
    stores: list[CatalogueStore] = []
    threads = [threading.Thread(target=lambda: stores.append(open_catalogue(url, bundle))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stores) == 3
    assert stores[0].status().items == {"films": 32, "books": 1}
    for store in stores:
        store.close()


def test_a_bundle_of_a_tokenizer_trained_anew_needs_a_new_generation(tmp_path: Path, url: str) -> None:
    store = open_catalogue(url, bundle_of(tmp_path / "bundle", frame_of(ROWS)))
    store.delete(ItemKey("films", "i0"))
    store.close()
    one_more = frame_of(
        [*ROWS[:-1], ("films", "i29", "t", [5, 5, 5], [0], 0), ("films", "new", None, [6, 6, 6], [0], 0)]
    )
    open_catalogue(url, bundle_of(tmp_path / "same", one_more)).close()
    others = frame_of([(domain, name, title, [6, *codes[1:]], *rest) for domain, name, title, codes, *rest in ROWS])
    with pytest.raises(ConfigError, match=r"dummy:\d+ than the bundle, for 32 of 32 items .* new generation"):
        open_catalogue(url, bundle_of(tmp_path / "other", others))


def test_a_catalogue_that_is_not_opened_leaves_no_file_open(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    contradicting = [*ROWS, ROWS[0]]
    with pytest.raises(BundleError) as refused:
        open_catalogue(f"embedded:{folder}", bundle_of(tmp_path / "bundle", frame_of(contradicting)))
    # What the traceback still holds is not closed by being forgotten.
    assert refused.value.__traceback__ is not None
    files = [os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    assert [file for file in files if file.startswith(str(folder))] == []


def test_a_new_file_that_another_replica_writes_to_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite refuses at once, whatever its timeout, where two would turn one new file into a write-ahead log."""
    manifest = dummy_manifest(ONE_FOR_ALL)
    layout = manifest.token_layout(manifest.recommenders[0])
    with closing(sqlite3.connect(tmp_path / "b@1.sqlite3", isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr(sqlite_file, "BUSY_SECONDS", 0.05)
        opened = partial(open_store, f"embedded:{tmp_path}", "b", 1, layout)
        with pytest.raises(StoreUnavailable, match="locked"):
            opened()
        monkeypatch.undo()
        threading.Timer(0.2, lambda: other.execute("COMMIT")).start()
        opened().close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop("codes"), "codes"),
        (lambda frame: frame.with_columns(codes=pl.lit("x")), r"items\.parquet"),
        (lambda frame: frame.with_columns(codes=pl.concat_list(pl.lit(1), pl.lit(2))), r"items\.parquet"),
        (lambda frame: frame.with_columns(suffix=pl.lit(4)), "not within 0..3"),
        (lambda frame: frame.with_columns(suffix=pl.lit(0)), "semantic ID of item '[ab]', domain 'films'"),
        (lambda frame: frame.with_columns(item_id=pl.lit("a")), "item of item 'a'"),
        (lambda frame: frame.with_columns(item_id=pl.lit(None, pl.String)), "'item_id' is null in row 0"),
        (lambda frame: frame.with_columns(suffix=pl.col("suffix").replace(1, None)), "'suffix' is null in row 1"),
        (lambda frame: frame.head(5), "5 items, but the manifest says 33"),
    ],
)
def test_a_catalogue_that_contradicts_itself_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    bundle = bundle_of(tmp_path, change(frame_of(ROWS)), items=len(ROWS))
    with pytest.raises(BundleError, match=message):
        read_bundle_catalogue(bundle, bundle.manifest.token_layout(bundle.manifest.recommenders[0]))


def test_an_empty_catalogue_is_a_catalogue(tmp_path: Path, url: str) -> None:
    store = open_catalogue(url, bundle_of(tmp_path / "bundle", frame_of([])))
    assert store.seeded()
    assert LiveCatalogue(store).domains() == {}
    store.close()
