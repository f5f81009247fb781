"""Files that take another's place: in which order the disk is told, and what killed runs leave."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from service import durable
from service.catalogue import sqlite_file
from service.catalogue.opening import open_store
from service.catalogue.sqlite_file import SqliteFile
from service.catalogue.transfer import Source, export_catalogue
from service.durable import make_folder, put_in_place, sync, working_folder
from service.errors import StoreUnavailable
from service.index.saving import load_arrays, save_arrays
from service.semantic_ids import TokenLayout
from training.stage import write_atomically


def written(folder: Path) -> None:
    write_atomically(folder / "whole", "new")


def exported(folder: Path) -> None:
    layout = TokenLayout(levels=3, codes=16, experts=2, experts_per_item=1, suffixes=4)
    store = open_store(f"embedded:{folder.parent / 'store'}", "b", 1, layout)
    store.finish_seed()
    export_catalogue(store, Source("b", 1), folder / "whole")
    store.close()


@pytest.mark.parametrize("write", [written, exported])
def test_a_file_is_on_the_disk_before_it_has_its_name_and_the_name_before_the_call_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None]
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "whole").write_bytes(b"old")
    synced: list[tuple[bool, bool]] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        fsync(descriptor)
        is_folder = Path(os.readlink(f"/proc/self/fd/{descriptor}")) == folder
        synced.append((is_folder, (folder / "whole").read_bytes() != b"old"))

    monkeypatch.setattr(os, "fsync", noted)
    write(folder)
    assert synced == [(False, False), (True, True)]
    assert [path.name for path in folder.iterdir()] == ["whole"]


def test_what_an_embedded_store_acknowledges_is_synced_first(tmp_path: Path) -> None:
    """In the mode WAL, `NORMAL` would sync at checkpoints alone, and a power cut take what was acknowledged since."""
    file = SqliteFile(tmp_path / "a.sqlite3", "")
    with file.transaction() as writer, file.reading() as reader:
        for cursor in (writer, reader):
            assert cursor.execute("PRAGMA synchronous").fetchone() == (2,)
            assert cursor.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    file.close()


def held_open(folder: Path) -> list[str]:
    """Files of a folder that this process has open."""
    links = [entry for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    return [str(link.readlink()) for link in links if link.readlink().parent == folder]


@pytest.mark.parametrize("schema", ["CREATE nonsense", ""])
def test_an_embedded_store_that_cannot_be_opened_is_not_held_open(tmp_path: Path, schema: str) -> None:
    path = tmp_path / "a.sqlite3"
    if not schema:
        path.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreUnavailable, match=r"a\.sqlite3: (near|file is not a database)") as caught:
        SqliteFile(path, schema)
    # While the error is kept, nothing of what it came through is forgotten.
    assert caught.tb is not None
    assert held_open(tmp_path) == []


def test_only_a_store_that_is_busy_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file.time, "sleep", lambda _: pytest.fail("it waited"))
    (tmp_path / "a.sqlite3-wal").mkdir()
    with pytest.raises(StoreUnavailable, match=r"a\.sqlite3: disk I/O error"):
        SqliteFile(tmp_path / "a.sqlite3", "")


def test_saved_arrays_and_their_names_are_on_the_disk_before_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        fsync(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced.append({tmp_path: "folder", tmp_path.parent: "outside"}.get(path, path.name.partition(".json")[0]))

    monkeypatch.setattr(os, "fsync", noted)
    (tmp_path / "manifest.json.0a1b2c3d").write_text("what a killed process left")
    save_arrays(tmp_path, {"a": np.arange(3), "b": np.arange(2)}, {})
    (inside,) = (path.name for path in tmp_path.iterdir() if path.is_dir())
    assert synced == ["a.npy", "b.npy", inside, "manifest", "folder"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([inside, "manifest.json"])


def test_saved_arrays_are_whole_where_the_disk_fails_once_they_have_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def failing(descriptor: int) -> None:
        if Path(os.readlink(f"/proc/self/fd/{descriptor}")) == tmp_path:
            raise OSError(5, "Input/output error")
        fsync(descriptor)

    save_arrays(tmp_path, {"a": np.arange(3)}, {})
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", failing)
        with pytest.raises(OSError, match="Input/output error"):
            save_arrays(tmp_path, {"a": np.arange(4)}, {})
    assert load_arrays(tmp_path, {})[0]["a"].tolist() == [0, 1, 2, 3]


def test_a_folder_that_cannot_be_synced_is_no_fault_but_a_file_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(descriptor: int) -> None:
        raise OSError(next(iter(durable.CANNOT_SYNC)), "Invalid argument")

    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "fsync", refused)
    sync(tmp_path)
    with pytest.raises(OSError, match="Invalid argument"):
        put_in_place(tmp_path / "file", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_folder_that_takes_files_and_is_not_listed_takes_an_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told by what the system would say, which says it to everybody but root."""
    folder, done = tmp_path / "box", []
    folder.mkdir()
    real_open, real_scan, sync_all = os.open, os.listdir, os.sync

    def opened(path: Path, *flags: int, **more: int) -> int:
        if path == folder:
            raise PermissionError(13, "Permission denied")
        return real_open(path, *flags, **more)

    def listed(path: Path) -> list[str]:
        if path == folder:
            raise PermissionError(13, "Permission denied")
        return real_scan(path)

    def synced() -> None:
        sync_all()
        done.append((folder / "whole").exists())

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", opened)
        patched.setattr(os, "listdir", listed)
        patched.setattr(os, "sync", synced)
        exported(folder)
    assert done == [True]
    assert [path.name for path in folder.iterdir()] == ["whole"]


WORKING = """
import sys
from pathlib import Path
from service.durable import working_folder
with working_folder(Path(sys.argv[1])) as folder:
    (folder / "part").touch()
    print(folder.name, flush=True)
    sys.stdin.read()
"""


def test_the_next_run_removes_what_killed_ones_left_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "copy.parquet"
    others = [".copy.parquet.personal", ".copy.parquet.x.abcdefgh.partial", "copy.parquet.abcdefgh.partial"]
    others += [".copy-parquet.abcdefgh.partial"]
    for name in others:
        (tmp_path / name).mkdir()
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", WORKING, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    killed, goes_on = (run.stdout.readline().strip() for run in runs if run.stdout)
    assert (tmp_path / killed).is_dir()
    runs[0].kill()
    runs[0].communicate()
    with working_folder(path) as folder:
        there = {entry.name for entry in tmp_path.iterdir()}
        assert there == {*others, goes_on, folder.name}
    runs[1].communicate("")
    assert runs[1].returncode == 0
    assert {entry.name for entry in tmp_path.iterdir()} == {*others}


def test_a_leftover_of_another_user_stays_and_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / ".a.abcdefgh.partial"
    left.mkdir()
    real = os.open

    def refused(path: Path, *flags: int, **more: int) -> int:
        if path == left:
            raise PermissionError(13, "Permission denied")
        return real(path, *flags, **more)

    monkeypatch.setattr(os, "open", refused)
    with working_folder(tmp_path / "a") as folder:
        assert folder.is_dir()
    assert [entry.name for entry in tmp_path.iterdir()] == [left.name]


def test_a_folder_that_is_taken_for_a_leftover_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    real = durable._locked

    def late(folder: Path, wait: bool) -> AbstractContextManager[bool]:
        if wait and not made:
            made.append(folder.name)
            other = threading.Thread(target=durable._remove_leftovers, args=(tmp_path / "a",))
            other.start()
            other.join()
        return real(folder, wait)

    monkeypatch.setattr(durable, "_locked", late)
    with working_folder(tmp_path / "a") as folder:
        assert folder.is_dir()
        assert folder.name not in made
    assert list(tmp_path.iterdir()) == []


def test_folders_that_were_missing_are_on_the_disk_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(durable, "sync", synced.append)
    make_folder(tmp_path / "a" / "b" / "c")
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    make_folder(tmp_path / "a" / "b")
    assert len(synced) == 3
