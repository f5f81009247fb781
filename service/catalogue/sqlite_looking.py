"""Reads a SQLite file with a write-ahead log that somebody else writes to, or that nobody may write to from here.

SQLite reads such a file only where it finds the log's -shm file or may make one, or where it is told that the file is
immutable: it then takes no locks and looks at no log, which is safe only while nobody writes. Knows nothing of what is
in the file.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from service.errors import StoreUnavailable


def may_write(folder: Path) -> bool:
    """Whether this process may make files in a folder: it has the right, and the file system is no read-only one."""
    return os.access(folder, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def log_of(path: Path) -> Path:
    """The write-ahead log of a file."""
    return path.with_name(f"{path.name}-wal")


def nobody_writes(path: Path) -> bool:
    """Whether a file is still: this process may not write, and who has it open to write would keep a log beside it."""
    return not may_write(path.parent) and not log_of(path).exists()


def connect_to_look(path: Path, immutable: bool) -> sqlite3.Connection:
    """A connection for any thread that changes nothing.

    Parameters
    ----------
    immutable : nobody writes, and nobody will; should somebody, what is read may not fit together

    Raises
    ------
    sqlite3.Error : the file cannot be opened
    StoreUnavailable : it has a log without an -shm file, which cannot be read without a right to write
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
