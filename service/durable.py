"""Files that take another's place in one step and are still there after a power cut.

Knows nothing of what is in them.
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
"""What a file system says that has no way of syncing folders."""


def sync(path: Path) -> None:
    """Have the system write a file, or the names that a folder holds, to the disk.

    Raises
    ------
    OSError : the disk has no room, or fails
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        # Such as a folder that takes files and is not listed: nothing less than all there is can be synced.
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
    """Make a folder and those above it that are missing, all of them on the disk when it returns; it may be there.

    Raises
    ------
    OSError : it cannot be made
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):
        sync(folder.parent)


def put_in_place(finished: Path, path: Path) -> None:
    """Put a finished file in the place of another beside it: a reader sees the old one or the new, whole.

    Raises
    ------
    OSError : the disk has no room, or fails
    """
    # Before the new name: else a power cut may leave it on a file that is empty.
    sync(finished)
    finished.replace(path)
    sync(path.parent)


@contextmanager
def working_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` for what becomes `path`, gone when the block ends; what killed runs left goes first.

    Several processes may work on one path at a time: each holds a lock on its folder, which ends when it does. Where
    the file system has no such locks, or the folder of `path` may not be listed, what killed runs left stays.

    Raises
    ------
    OSError : the folder of `path` is not there or may not be written to
    """
    _remove_leftovers(path)
    while True:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=PARTIAL, dir=path.parent) as name:
            folder = Path(name)
            with _locked(folder, wait=True):
                # Another run may have taken it for a leftover before it was locked.
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
    """Hold a folder's lock while the block runs; False where it cannot be had, as of one that is another user's."""
    with ExitStack() as stack:
        try:
            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            had = True
        except OSError:
            had = False
        yield had
