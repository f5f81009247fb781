"""Atomic, durable file operations: replace a file in one step, and keep it through a power cut.

Knows nothing of the contents.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PARTIAL = ".partial"

CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP}
"""Errors of file systems that cannot sync folders."""


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk (fsync).

    Raises
    ------
    OSError : the disk has no room, or fails
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        # A folder that may be written to but not read cannot be opened, so everything has to be synced.
        os.sync()
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in CANNOT_SYNC):
            raise
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents, durably; it may exist already.

    Raises
    ------
    OSError : it cannot be made
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):
        sync(folder.parent)


def put_in_place(finished: Path, path: Path) -> None:
    """Replace a file by a finished one beside it, atomically: a reader sees the old or the new, whole.

    Raises
    ------
    OSError : the disk has no room, or fails
    """
    # Sync before the rename, or a power cut may leave an empty file under the new name.
    sync(finished)
    finished.replace(path)
    sync(path.parent)


@contextmanager
def working_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` in which to prepare it, removed when the block ends.

    Leftovers of killed runs are removed first.

    Several processes may work on one path at a time: each holds a lock on its folder, which the system releases when
    the process ends. Leftovers stay where the file system has no locks or the parent folder may not be listed.

    Raises
    ------
    OSError : the folder of `path` is not there or may not be written to
    """
    _remove_leftovers(path)
    while True:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=PARTIAL, dir=path.parent) as name:
            folder = Path(name)
            with _locked(folder, wait=True):
                # Another run may have removed it as a leftover before it was locked.
                if folder.exists():
                    yield folder
                    return


def _remove_leftovers(path: Path) -> None:
    ours = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}{re.escape(PARTIAL)}")
    try:
        there = list(path.parent.iterdir())
    except PermissionError:
        return
    for folder in there:
        if ours.fullmatch(folder.name):
            with _locked(folder, wait=False) as alone:
                if alone:
                    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path, wait: bool) -> Iterator[bool]:
    """Hold a folder's lock while the block runs; yields False where it cannot be taken, such as another user's."""
    with ExitStack() as stack:
        try:
            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            had = True
        except OSError:
            had = False
        yield had
