"""Read-only access to a SQLite file with a write-ahead log, even in a folder that is not writable.

SQLite reads such a file only if the log's -shm file exists or can be created, or if the file is declared immutable. It
then takes no locks and ignores the log, which is safe only while nobody writes. Independent of what is in the file.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from service.errors import StoreUnavailable


def may_write(folder: Path) -> bool:
    """Whether this process may create files in a folder (permission, and no read-only file system)."""
    return os.access(folder, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def log_of(path: Path) -> Path:
    """The write-ahead log of a file."""
    return path.with_name(f"{path.name}-wal")


def nobody_writes(path: Path) -> bool:
    """Whether a file has no writer: this process may not write, and another writer would keep a log next to it."""
    return not may_write(path.parent) and not log_of(path).exists()


def connect_readonly(path: Path, immutable: bool) -> sqlite3.Connection:
    """Open a read-only connection, usable from any thread.

    Parameters
    ----------
    immutable : promises that nobody writes meanwhile; otherwise reads may be inconsistent

    Raises
    ------
    sqlite3.Error : the file cannot be opened
    StoreUnavailable : it has a log without an -shm file, which cannot be read without write permission
    """
    uri = f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if immutable else ''}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        connection.close()
        if error.sqlite_errorcode != sqlite3.SQLITE_CANTOPEN or not log_of(path).exists():
            raise
        raise StoreUnavailable(
            f"embedded store {path}: was not closed, and what is in its {log_of(path).name} cannot be read where the "
            "folder may not be written to; open and close it where it may, or copy the folder and look at the copy"
        ) from error
    return connection
