"""An embedded store in a folder that may not be written to: what can be looked at there, and what cannot."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from places import LAYOUT, everything, new, suffixes
from tiny_graphs import write_bundle
from typer.testing import CliRunner

from service.bundle.files import Bundle, write_manifest
from service.catalogue import sqlite_file
from service.catalogue.checking import examine
from service.catalogue.opening import open_store, stored_generations
from service.catalogue.records import ItemKey, NewItem
from service.catalogue.seeding import open_catalogue
from service.catalogue.store import CatalogueStore
from service.cli.main import build
from service.errors import ConfigError, StoreUnavailable

NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that a user without rights can be led to, which pytest's own are not."""
    made = Path(tempfile.mkdtemp())
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder that this process may not write to while the block runs; root has to become somebody else for that."""
    mode, user = stat.S_IMODE(folder.stat().st_mode), os.geteuid()
    folder.chmod(0o555)
    try:
        if user == 0:
            try:
                os.seteuid(NOBODY)
            except OSError as error:
                pytest.skip(f"root cannot become another user here: {error}")
        assert not os.access(folder, os.W_OK, effective_ids=True)
        yield
    finally:
        os.seteuid(user)
        folder.chmod(mode)


def filled(folder: Path) -> CatalogueStore:
    store = open_store(f"embedded:{folder}", "b", 1, LAYOUT)
    store.finish_seed()
    store.register([new("a", title="A"), new("b"), new("c", (4, 4))])
    store.delete(ItemKey("films", "b"))
    return store


def looking(folder: Path) -> CatalogueStore:
    return open_store(f"embedded:{folder}", "b", 1, LAYOUT, looking=True)


def test_a_store_that_was_closed_is_read_and_cannot_be_changed(folder: Path) -> None:
    store = filled(folder)
    expected, status = everything(store), store.status()
    store.close()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with read_only(folder):
        assert [each.number for each in stored_generations(f"embedded:{folder}")] == [1]
        store = looking(folder)
        assert everything(store) == expected
        assert len([item for batch in store.rows() for item in batch]) == 3
        assert (store.totals().items, store.status().fingerprints) == (status.items, status.fingerprints)
        assert examine(store).findings == ()
        with pytest.raises(StoreUnavailable, match="readonly"):
            store.register([new("d")])
        store.close()
        with pytest.raises(StoreUnavailable, match=r"readonly|unable to open"):
            open_store(f"embedded:{folder}", "b", 1, LAYOUT)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_store_that_somebody_has_open_is_followed(folder: Path) -> None:
    store = filled(folder)
    with read_only(folder):
        reader = looking(folder)
        assert everything(reader) == everything(store)
        store.register([new("d")])
        assert everything(reader) == everything(store)
        reader.close()
    store.close()


def test_a_store_that_was_killed_is_read_with_its_log(folder: Path) -> None:
    store = filled(folder)
    shutil.copytree(folder, folder / "killed")
    store.close()
    with read_only(folder / "killed"):
        reader = looking(folder / "killed")
        assert {item_id for _, item_id in everything(reader)} == {"a", "c"}
        reader.close()


def test_a_log_without_the_file_beside_it_is_said_and_not_passed_over(folder: Path) -> None:
    store = filled(folder)
    (folder / "killed").mkdir()
    for name in ("b@1.sqlite3", "b@1.sqlite3-wal"):
        shutil.copy(folder / name, folder / "killed")
    store.close()
    with read_only(folder / "killed"):
        for look in (lambda: looking(folder / "killed"), lambda: stored_generations(f"embedded:{folder / 'killed'}")):
            with pytest.raises(StoreUnavailable, match=r"was not closed, .* open and close it where it may, or copy"):
                look()
    open_store(f"embedded:{folder / 'killed'}", "b", 1, LAYOUT).close()
    with read_only(folder / "killed"):
        reader = looking(folder / "killed")
        assert {item_id for _, item_id in everything(reader)} == {"a", "c"}
        reader.close()


def test_what_is_written_while_nobody_was_to_write_is_noticed(folder: Path) -> None:
    filled(folder).close()
    with read_only(folder):
        reader = looking(folder)
    store = open_store(f"embedded:{folder}", "b", 1, LAYOUT)
    store.register([new("d")])
    rows = reader.rows()
    next(rows)
    store.close()
    with pytest.raises(StoreUnavailable, match="was changed while it was read"):
        list(rows)
    with pytest.raises(StoreUnavailable, match="was changed while it was read"):
        reader.totals()
    reader.close()


def many(count: int) -> list[NewItem]:
    return [new(f"i{number}", (number % 256, number // 256), title="t" * 200) for number in range(count)]


def test_pages_of_two_moments_are_not_taken_for_a_broken_file(folder: Path) -> None:
    store = filled(folder)
    store.register(many(9000))
    store.close()
    with read_only(folder):
        reader = looking(folder)
    rows = reader.rows()
    next(rows)
    store = open_store(f"embedded:{folder}", "b", 1, LAYOUT)
    store.drop()
    store.close()
    with pytest.raises(StoreUnavailable, match="was changed while it was read"):
        list(rows)
    reader.close()


def test_what_is_written_while_a_store_is_opened_is_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(folder).close()
    real, opened = sqlite_file.connect_readonly, []

    def late(path: Path, immutable: bool) -> sqlite3.Connection:
        opened.append(real(path, immutable))
        if len(opened) == 2:
            user = os.geteuid()
            os.seteuid(os.getuid())
            folder.chmod(0o755)
            store = open_store(f"embedded:{folder}", "b", 1, LAYOUT)
            store.register(many(60))
            store.close()
            os.seteuid(user)
        return opened[-1]

    monkeypatch.setattr(sqlite_file, "connect_readonly", late)
    with read_only(folder), pytest.raises(StoreUnavailable, match="was changed while it was read"):
        looking(folder).totals()


def test_another_layout_is_refused_there_too(folder: Path) -> None:
    filled(folder).close()
    with read_only(folder), pytest.raises(ConfigError, match="holds semantic IDs of layout"):
        open_store(f"embedded:{folder}", "b", 1, type(LAYOUT)(3, 16, 2, 1, 4), looking=True)


def test_who_may_write_looks_as_before(folder: Path) -> None:
    filled(folder).close()
    store = looking(folder)
    assert suffixes(store, [new("e", (4, 4))]) == [1]
    store.close()


def test_the_commands_that_only_look_need_no_right_to_write(folder: Path, tmp_path: Path) -> None:
    bundle = write_bundle(folder / "tiny")
    shutil.copytree(folder / "tiny", folder / "next")
    write_manifest(folder / "next", bundle.manifest.model_copy(update={"generation": bundle.manifest.generation + 1}))
    for part in ("tiny", "next"):
        for path in (folder / part).rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
    url = f"embedded:{folder / 'store'}"
    for part in ("tiny", "next"):
        open_catalogue(url, Bundle.open(folder / part)).close()
    output = Path(tempfile.mkdtemp(dir=folder))
    output.chmod(0o777)

    def said(*words: str) -> dict[str, object]:
        found = CliRunner().invoke(build(), ["catalogue", *words, "--store", url])
        assert found.exit_code == 0, (found.output, found.exception)
        return json.loads(found.output)  # type: ignore[no-any-return]

    commands = (
        ["status"],
        ["verify", "--bundle", str(bundle.folder)],
        ["compare", "--from", str(bundle.folder), "--bundle", str(folder / "next")],
        ["export", str(output / "copy.parquet"), "--bundle", str(bundle.folder)],
    )
    expected = [said(*words) for words in commands]
    (output / "copy.parquet").unlink()
    with read_only(folder / "store"):
        assert [said(*words) for words in commands] == expected
    assert (output / "copy.parquet").exists()
