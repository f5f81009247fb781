"""A catalogue out of one store into another, and files that must not get in."""

from __future__ import annotations

import itertools
import json
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from redis_server import RedisServer
from tiny_graphs import write_bundle
from typer.testing import CliRunner

from service.bundle.files import Bundle, hash_files, write_manifest
from service.catalogue import embedded_reading, transfer
from service.catalogue.checking import examine
from service.catalogue.embedded import EmbeddedStore
from service.catalogue.opening import open_bundle_store, open_store
from service.catalogue.records import ItemKey, NewItem, StoredItem
from service.catalogue.seeding import open_catalogue
from service.catalogue.store import CatalogueStore
from service.catalogue.transfer import Imported, Source, export_catalogue, import_catalogue
from service.cli.main import build
from service.errors import ConfigError, GenerationIncomplete, InvalidInput, StoreUnavailable, UnknownGeneration
from service.semantic_ids import TokenLayout

pytestmark = pytest.mark.usefixtures("few_buckets")
LAYOUT = TokenLayout(levels=7, codes=256, experts=4, experts_per_item=1, suffixes=64)  # 64 bits: the sign bit is used
SOURCE = Source("b", 3)
names = (f"carried-{number}" for number in itertools.count())


@pytest.fixture
def make(tmp_path: Path, redis_server: RedisServer) -> Iterator[Callable[[str], CatalogueStore]]:
    made: list[CatalogueStore] = []

    def open_one(kind: str) -> CatalogueStore:
        url = redis_server.url if kind == "redis" else f"embedded:{tmp_path / 'stores'}"
        made.append(open_store(url, next(names), 3, LAYOUT))
        return made[-1]

    yield open_one
    for store in made:
        store.close()


def codes(number: int) -> tuple[int, ...]:
    return (255 * (number % 2), *[number % 5] * 6)


def fill(store: CatalogueStore) -> None:
    store.finish_seed()
    items = [NewItem("films", f"i{n}", codes(n), (n % 2,), f"title {n}", '{"brand":"é"}') for n in range(300)]
    items += [NewItem("книги", "i0", codes(0), (3,)), NewItem("empty", "gone", codes(1), (2,))]
    store.register(items)
    for key in (ItemKey("films", "i299"), ItemKey("films", "i4"), ItemKey("empty", "gone")):
        store.delete(key)


def content(store: CatalogueStore) -> dict[ItemKey, StoredItem]:
    return {item.key: item for batch in store.rows() for item in batch}


@pytest.mark.parametrize(("one", "other"), [("embedded", "redis"), ("redis", "embedded")])
def test_a_copy_holds_the_same_under_the_same_ids(
    make: Callable[[str], CatalogueStore], tmp_path: Path, one: str, other: str
) -> None:
    original, copy = make(one), make(other)
    fill(original)
    file = tmp_path / "new [folder]" / "copy[1].parquet"
    assert export_catalogue(original, SOURCE, file) == 302
    assert [path.name for path in file.parent.iterdir()] == ["copy[1].parquet"]
    assert import_catalogue(copy, SOURCE, file) == Imported(302, 302, 0)
    assert import_catalogue(copy, SOURCE, file) == Imported(302, 0, 302)
    copy.finish_seed()
    assert content(copy) == content(original)
    assert sum(not item.live for item in content(copy).values()) == 3
    assert copy.totals().items == original.totals().items
    assert copy.totals().fingerprints == original.totals().fingerprints
    assert examine(copy).findings == ()
    more = [NewItem("films", "next", codes(9), (1,)), NewItem("films", "i299", codes(3), (0,))]
    assert copy.register(more).values.tolist() == original.register(more).values.tolist()


def test_ids_without_an_expert_are_carried_too(tmp_path: Path) -> None:
    layout = TokenLayout(levels=3, codes=16, experts=1, experts_per_item=0, suffixes=4)
    original, copy = (open_store(f"embedded:{tmp_path / name}", "b", 3, layout) for name in ("original", "copy"))
    original.finish_seed()
    original.register([NewItem("films", f"i{n}", (n, 1, 2), (), None) for n in range(5)])
    assert export_catalogue(original, SOURCE, tmp_path / "copy.parquet") == 5
    assert import_catalogue(copy, SOURCE, tmp_path / "copy.parquet") == Imported(5, added=5, already_there=0)
    assert content(copy) == content(original)
    original.close()
    copy.close()


def test_an_empty_catalogue_is_carried_too(make: Callable[[str], CatalogueStore], tmp_path: Path) -> None:
    file, store = tmp_path / "none.parquet", make("embedded")
    store.finish_seed()
    assert export_catalogue(store, SOURCE, file) == 0
    assert import_catalogue(make("redis"), SOURCE, file) == Imported(0, 0, 0)


@pytest.mark.parametrize("kind", ["embedded", "redis"])
def test_a_store_that_was_never_filled_replaces_no_export(
    make: Callable[[str], CatalogueStore], tmp_path: Path, kind: str
) -> None:
    file = tmp_path / "copy.parquet"
    file.write_bytes(b"the last good one")
    with pytest.raises(GenerationIncomplete, match=r"carried-\d+:3 is not complete, so .*copy\.parquet is left"):
        export_catalogue(make(kind), SOURCE, file)
    assert file.read_bytes() == b"the last good one"


@pytest.mark.parametrize("kind", ["embedded", "redis"])
@pytest.mark.parametrize(
    ("before", "message"),
    [
        (NewItem("films", "i7", codes(8), (1,)), r"item_id: .* under another semantic ID \('i7', domain 'films'\)"),
        (NewItem("films", "stranger", codes(7), (1,)), r"suffix: .* given this semantic ID away.*'i7'"),
    ],
)
def test_a_row_that_contradicts_the_store_stops_everything(
    make: Callable[[str], CatalogueStore], tmp_path: Path, kind: str, before: NewItem, message: str
) -> None:
    original, copy = make("embedded"), make(kind)
    fill(original)
    file = tmp_path / "copy.parquet"
    export_catalogue(original, SOURCE, file)
    frame = pl.read_parquet(file)
    row = frame["item_id"].to_list().index("i7")
    assert frame["suffix"][row] == 0
    copy.finish_seed()
    copy.register([before])
    stored, head = content(copy), copy.head()
    with pytest.raises(InvalidInput, match=rf"copy\.parquet: row {row}, field {message}"):
        import_catalogue(copy, SOURCE, file)
    assert (content(copy), copy.head()) == (stored, head)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop("live"), "column 'live' is missing"),
        (lambda frame: frame.with_columns(suffix=pl.lit("x")), "column 'suffix' is String, but"),
        (lambda frame: frame.with_columns(at(5, "domain", None)), "row 5, field domain: is null"),
        (
            lambda frame: frame.with_columns(at(6, "generation", 4)),
            "row 6, field generation: is 4, but the store's is 3",
        ),
        (lambda frame: frame.with_columns(at(6, "bundle", "x")), "row 6, field bundle: is 'x'"),
        (lambda frame: frame.with_columns(at(7, "suffix", 64)), r"row 7, field suffix: 64 is not within 0\.\.63"),
        (
            lambda frame: frame.with_columns(at(7, "codes", [1, 2])),
            "row 7, field codes: 2 numbers, but there must be 7",
        ),
        (
            lambda frame: frame.with_columns(at(7, "codes", [1, None] + [1] * 5)),
            "row 7, field codes: a number is missing",
        ),
        (lambda frame: frame.with_columns(at(7, "codes", [1] * 6 + [-1])), "row 7, field codes: -1 is not within"),
        (lambda frame: frame.with_columns(at(8, "item_id", "x" * 513)), "row 8, field item_id: must have 1 to 512"),
        (lambda frame: frame.with_columns(at(8, "content", "[1]")), "row 8, field content: is no JSON object"),
        (lambda frame: pl.concat([frame, frame[3:4]]), "row 302, field item_id: repeats"),
        (
            lambda frame: pl.concat([frame, frame[3:4].with_columns(item_id=pl.lit("n"))]),
            "row 302, field suffix: repeats",
        ),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(
    make: Callable[[str], CatalogueStore], tmp_path: Path, change: Any, message: str
) -> None:
    original, copy = make("embedded"), make("embedded")
    fill(original)
    export_catalogue(original, SOURCE, tmp_path / "copy.parquet")
    change(pl.read_parquet(tmp_path / "copy.parquet")).write_parquet(tmp_path / "changed.parquet")
    with pytest.raises(InvalidInput, match=message):
        import_catalogue(copy, SOURCE, tmp_path / "changed.parquet")
    assert content(copy) == {}


def at(row: int, column: str, value: Any) -> pl.Expr:
    """A column with another value in one row."""
    return pl.when(pl.int_range(pl.len()) == row).then(pl.lit(value)).otherwise(column).alias(column)


def test_no_parquet_is_refused(make: Callable[[str], CatalogueStore], tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"PAR1 but not really PAR1")
    for name in ("x", "missing"):
        with pytest.raises(InvalidInput, match="cannot be read as Parquet"):
            import_catalogue(make("embedded"), SOURCE, tmp_path / name)


def test_an_export_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "own") as own:
        store = open_store(own.url, "b", 3, LAYOUT)
        fill(store)
        file = tmp_path / "out" / "copy.parquet"
        export_catalogue(store, SOURCE, file)
        before = file.read_bytes()
        own.kill()
        with pytest.raises(StoreUnavailable):
            export_catalogue(store, SOURCE, file)
        assert (file.read_bytes(), [path.name for path in file.parent.iterdir()]) == (before, ["copy.parquet"])
        store.close()


def test_what_was_lost_while_it_was_read_is_not_exported(
    own_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(own_server.url, "b", 3, LAYOUT)
    fill(store)
    path = tmp_path / "copy.parquet"
    path.write_bytes(b"an older copy")
    rows = store.rows

    def emptied() -> Iterator[list[StoredItem]]:
        store._redis.flushall()  # type: ignore[attr-defined]
        return rows()

    monkeypatch.setattr(store, "rows", emptied)
    with pytest.raises(StoreUnavailable, match=r"emptied while it was read; .*copy\.parquet is left as it was"):
        export_catalogue(store, SOURCE, path)
    assert path.read_bytes() == b"an older copy"
    store.close()


def test_a_copy_is_sorted_and_is_taken_in_any_order(
    make: Callable[[str], CatalogueStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_reading, "SCAN_ROWS", 50)
    monkeypatch.setattr(transfer, "PART_ROWS", 100)
    store, path = make("embedded"), tmp_path / "copy.parquet"
    fill(store)
    read = list[int]()
    rows = export_catalogue(store, SOURCE, path, read.append)
    assert rows == sum(read) == 302
    assert len(read) == 4
    frame = pl.read_parquet(path)
    assert frame.equals(frame.sort("domain", "codes", "experts", "suffix"))
    frame.reverse().write_parquet(path)
    for kind in ("embedded", "redis"):
        other, done = make(kind), list[int]()
        other.finish_seed()
        assert import_catalogue(other, SOURCE, path, done.append) == Imported(rows, rows, 0)
        assert sum(done) == rows
        assert content(other) == content(store)


@pytest.mark.parametrize(("name", "taken"), [("", False), ("a" * 512, True), ("é" * 256, True), ("é" * 257, False)])
def test_a_name_of_a_copy_has_1_to_512_bytes(
    make: Callable[[str], CatalogueStore], tmp_path: Path, name: str, taken: bool
) -> None:
    store, other, path = make("embedded"), make("embedded"), tmp_path / "copy.parquet"
    store.finish_seed()
    other.finish_seed()
    store.register([NewItem("films", "a", codes(0), (1,))])
    export_catalogue(store, SOURCE, path)
    pl.read_parquet(path).with_columns(item_id=pl.lit(name)).write_parquet(path)
    if taken:
        assert import_catalogue(other, SOURCE, path).added == 1
    else:
        with pytest.raises(InvalidInput, match="row 0, field item_id: must have 1 to 512 bytes"):
            import_catalogue(other, SOURCE, path)


@pytest.mark.parametrize(
    ("where", "room", "why"),
    [("out", True, "is a folder"), ("file/x", True, "cannot be written"), ("out/x", False, "cannot be written")],
)
def test_a_file_that_cannot_be_written_is_said_in_one_line(tmp_path: Path, where: str, room: bool, why: str) -> None:
    store = open_store(f"embedded:{tmp_path / 'store'}", "b", 3, LAYOUT)
    fill(store)
    (tmp_path / "out").mkdir()
    (tmp_path / "file").write_text("before")
    path = tmp_path / where
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        if not room:
            resource.setrlimit(resource.RLIMIT_FSIZE, (16, hard))
        with pytest.raises(ConfigError, match=f"^{path}: {why}") as caught:
            export_catalogue(store, SOURCE, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []
    store.close()


class Shell:
    """`unitok catalogue` on one bundle and one store."""

    def __init__(self, bundle: Bundle, url: str) -> None:
        self.bundle = bundle
        self.url = url

    def __call__(self, *words: str, code: int = 0, bundle: bool = True) -> Any:
        options = ["--store", self.url, *(["--bundle", str(self.bundle.folder)] if bundle else [])]
        result = CliRunner().invoke(build(), ["catalogue", *words, *options])
        assert result.exit_code == code, (result.output, result.exception)
        return json.loads(result.output)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_bundle(tmp_path / "tiny")


def test_the_commands_copy_prove_and_mend(bundle: Bundle, tmp_path: Path) -> None:
    one, two = (Shell(bundle, f"embedded:{tmp_path / name}") for name in ("one", "two"))
    store = open_catalogue(one.url, bundle)
    assert isinstance(store, EmbeddedStore)
    layout = store.layout
    item = NewItem("films", "x", (0,) * layout.levels, (0,) * layout.experts_per_item, "X", '{"brand":"B"}')
    store.register([item])
    own = next(item for batch in store.rows() for item in batch if item.item_id == "own-0")
    store.delete(own.key)
    items = len(content(store)) - 1

    (said,) = one("status", bundle=False)
    assert (said["bundle"], said["generation"]) == (bundle.manifest.name, bundle.manifest.generation)
    assert (said["items"], said["complete"], said["latest_change"], said["log_length"]) == (items, True, 2, 2)
    assert said["domains"]["films"]["fingerprint"] == f"{store.totals().fingerprints['films']:016x}"
    assert one("verify", "--content") == {
        "complete": True,
        "items": items,
        "deleted": 1,
        "findings": [],
        "content": {"compared": 1, "other_codes_today": one("verify", "--content")["content"]["other_codes_today"]},
    }

    file = str(tmp_path / "copy.parquet")
    assert one("export", file)["items"] == items + 1
    assert two("import", file) == {"rows": items + 1, "added": items + 1, "already_there": 0, "left_out": 0}
    assert two("import", file)["added"] == 0
    (copied,) = two("status", bundle=False)
    assert (copied["domains"], copied["complete"]) == (said["domains"], True), (
        "the deleted item of the bundle stays deleted"
    )

    with store._file.transaction() as cursor:
        cursor.execute("DELETE FROM fingerprint")
    findings = one("verify", code=1)["findings"]
    assert findings
    assert all(finding["repairable"] for finding in findings)
    assert [finding["what"] for finding in one("repair")] == [finding["what"] for finding in findings]
    assert one("verify")["findings"] == []
    store.close()


@pytest.mark.parametrize("kind", ["embedded", "redis"])
@pytest.mark.parametrize("added", [("x", 3), ("y", 2)])
def test_a_copy_comes_back_beside_a_bundle_that_was_exported_again(
    bundle: Bundle, redis_server: RedisServer, tmp_path: Path, kind: str, added: tuple[str, int]
) -> None:
    """The new export has an item of the copy under another ID, or an ID of the copy under another item."""
    item_id, suffix = added
    one = Shell(bundle, f"embedded:{tmp_path / 'one'}")
    two = Shell(bundle, f"embedded:{tmp_path / 'two'}" if kind == "embedded" else f"{redis_server.url}/{50 + suffix}")
    store = open_catalogue(one.url, bundle)
    assert suffix_of(store, "x") == 2, "behind the bundle's own"
    held = content(store)
    store.close()
    copy = str(tmp_path / "copy.parquet")
    one("export", copy)

    path = bundle.path(bundle.manifest.catalogue.path)
    own = pl.read_parquet(path)
    row = own.head(1).with_columns(item_id=pl.lit(item_id), suffix=pl.lit(suffix, own.schema["suffix"]))
    pl.concat([own, row]).write_parquet(path)
    files, entry = hash_files(bundle.folder), bundle.manifest.catalogue.model_copy(update={"items": len(own) + 1})
    write_manifest(bundle.folder, bundle.manifest.model_copy(update={"files": files, "catalogue": entry}))

    said = two("import", copy)
    assert (said["added"], said["left_out"]) == (len(held), int(item_id == "y"))
    restored = open_catalogue(two.url, Bundle.open(bundle.folder))
    assert content(restored) == held
    assert not examine(restored).findings
    restored.close()


@pytest.mark.parametrize("kind", ["embedded", "redis"])
def test_an_import_that_broke_off_is_ended_by_an_import_alone(
    bundle: Bundle, redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A service that filled the store from its bundle would bring back the item that the file holds as deleted."""
    one = Shell(bundle, f"embedded:{tmp_path / 'one'}")
    two = Shell(bundle, f"embedded:{tmp_path / 'two'}" if kind == "embedded" else f"{redis_server.url}/60")
    with closing(open_catalogue(one.url, bundle)) as store:
        deleted = next(item for batch in store.rows() for item in batch)
        store.delete(deleted.key)
        held = content(store)
    copy = str(tmp_path / "copy.parquet")
    one("export", copy)

    class BrokenOffError(Exception):
        """In place of a kill."""

    def broken_off(rows: int) -> None:
        raise BrokenOffError

    monkeypatch.setattr(transfer, "BATCH", 1)
    with closing(open_bundle_store(two.url, bundle)) as store, pytest.raises(BrokenOffError):
        import_catalogue(store, Source(bundle.manifest.name, bundle.manifest.generation), Path(copy), broken_off)
    with pytest.raises(GenerationIncomplete, match=r"an import of copy\.parquet into tiny:\d+ has begun"):
        open_catalogue(two.url, bundle)
    assert two("import", copy) == {"rows": len(held), "added": len(held) - 1, "already_there": 1, "left_out": 0}
    with closing(open_catalogue(two.url, bundle)) as store:
        assert content(store) == held


def suffix_of(store: CatalogueStore, item_id: str) -> int:
    """Suffix of an item that is registered with the codes of the bundle's own items."""
    codes, experts = (1,) * store.layout.levels, (0,) * store.layout.experts_per_item
    return int(store.register([NewItem("films", item_id, codes, experts)]).values[0, -1])


@pytest.mark.parametrize("words", [["export", "copy.parquet"], ["verify"], ["repair"], ["compare", "--from", "next"]])
def test_who_looks_makes_no_store(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree("tiny", "next")
    write_manifest(Path("next"), bundle.manifest.model_copy(update={"generation": bundle.manifest.generation + 1}))
    open_store("embedded:there", "other", 1, LAYOUT).close()
    for folder, holds in (("there", "other:1"), ("typo", "nothing")):
        options = ["--store", f"embedded:{folder}", "--bundle", "tiny"]
        result = CliRunner().invoke(build(), ["catalogue", *words, *options])
        assert isinstance(result.exception, UnknownGeneration)
        assert f"{folder} holds no catalogue of {bundle.manifest.name}:" in str(result.exception)
        assert f"but {holds};" in str(result.exception)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["next", "there", "tiny"]
    assert len(list((tmp_path / "there").glob("*.sqlite3"))) == 1


def test_an_empty_place_holds_nothing(bundle: Bundle, tmp_path: Path) -> None:
    assert Shell(bundle, f"embedded:{tmp_path / 'none'}")("status", bundle=False) == []


def test_packing_is_by_domain(make: Callable[[str], CatalogueStore], tmp_path: Path) -> None:
    """Two items of different domains may have one ID, in a file as in a store."""
    store = make("redis")
    store.finish_seed()
    store.register([NewItem("p", "a", codes(1), (1,)), NewItem("q", "a", codes(1), (1,))])
    export_catalogue(store, SOURCE, tmp_path / "x.parquet")
    assert import_catalogue(make("embedded"), SOURCE, tmp_path / "x.parquet").added == 2
    assert len(np.unique(pl.read_parquet(tmp_path / "x.parquet")["suffix"].to_numpy())) == 1
