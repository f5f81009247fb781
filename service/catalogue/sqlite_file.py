"""A SQLite file shared by threads and processes: synced write transactions and concurrent reads.

Independent of what is in its tables.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from service.catalogue.sqlite_readonly import connect_readonly, log_of, may_write, nobody_writes
from service.errors import StoreUnavailable

BUSY_SECONDS = 30.0
"""Maximum time that a writer waits for another process's transaction."""

BUSY_PAUSE_SECONDS = 0.01
"""Pause between attempts, where SQLite itself does not wait."""


class SqliteFile:
    """One connection for writing and one for reading, each used by one thread at a time.

    A file that was deleted or replaced meanwhile stays open here, but data written to it would be lost. So every block
    checks that the path still leads to the opened file. The same holds for the write-ahead log, which has the latest
    commits, and which stays the same file as long as a connection is open.

    Parameters
    ----------
    path : created with its folder if missing
    schema : statements that create missing tables
    looking : if the folder is not writable, open the existing file read-only; changes then fail

    Raises
    ------
    StoreUnavailable : SQLite failed; raised here and by every block
    """

    def __init__(self, path: Path, schema: str, *, looking: bool = False) -> None:
        self._path = path
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        self._read_only = looking and path.exists() and not may_write(path.parent)
        self._immutable = self._read_only and nobody_writes(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreUnavailable(f"embedded store {path.parent}: {error}") from error
        # Before the first page is read: connections to an immutable file keep their pages.
        self._opened = self._identity()
        with self._errors():
            self._writer = self._connect()
            try:
                if not self._read_only:
                    self._writer.executescript(schema)
                self._reader = self._connect()
            except BaseException:
                self._writer.close()
                raise
        if not self._immutable:
            self._opened = self._identity()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Cursor]:
        """Write transaction: committed and synced when the block ends, rolled back if it raises."""
        with self._errors(), self._writing, closing(self._writer.cursor()) as cursor:
            self._require_same()
            cursor.execute("BEGIN IMMEDIATE")
            try:
                yield cursor
                self._require_same()
                cursor.execute("COMMIT")
            finally:
                if self._writer.in_transaction:
                    cursor.execute("ROLLBACK")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Cursor]:
        """Cursor on the committed data; each statement reads one snapshot."""
        with self._errors(), self._reading, closing(self._reader.cursor()) as cursor:
            self._require_same()
            yield cursor
            if self._immutable:
                self._require_same()

    @contextmanager
    def scanning(self) -> Iterator[sqlite3.Cursor]:
        """Like `reading`, for long reads: uses its own connection, so that it blocks no other reader."""
        self._require_same()
        with self._errors(), closing(self._connect()) as connection, closing(connection.cursor()) as cursor:
            yield cursor
            if self._immutable:
                self._require_same()

    def vacuum(self) -> None:
        """Free the disk space of removed rows."""
        with self._errors(), self._writing:
            self._writer.execute("VACUUM")

    def nbytes(self) -> int:
        """Size on disk, the write-ahead log included."""
        files = (self._path, log_of(self._path))
        return sum(file.stat().st_size for file in files if file.exists())

    def close(self) -> None:
        """Close both connections; the file must not be used afterwards."""
        with self._writing, self._reading:
            self._writer.close()
            self._reader.close()

    def _connect(self) -> sqlite3.Connection:
        if self._read_only:
            return connect_readonly(self._path, self._immutable)
        connection = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            _enter_wal(connection)
            connection.execute("PRAGMA synchronous = FULL")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _identity(self) -> tuple[int, ...] | None:
        """Device and inode of the file; also of its log unless read-only, and the modification time if immutable.

        None if a file is missing.
        """
        try:
            said = self._path.stat()
            log = None if self._read_only else log_of(self._path).stat()
        except OSError:
            return None
        since = (said.st_mtime_ns,) if self._immutable else ()
        return (said.st_dev, said.st_ino, *since, *(() if log is None else (log.st_dev, log.st_ino)))

    def _require_same(self) -> None:
        if self._identity() != self._opened:
            if self._immutable:
                raise StoreUnavailable(f"embedded store {self._path}: was changed while it was read; look again")
            raise StoreUnavailable(
                f"embedded store {self._path}: the file, or its {log_of(self._path).name}, was deleted or replaced "
                "while it was in use, so nothing is written any more; move it back, or stop, restore a copy or import "
                "an export, and start again"
            )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if self._immutable:
                # Pages from different moments look like a corrupt file.
                self._require_same()
            raise StoreUnavailable(f"embedded store {self._path}: {error}") from error


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Switch a file to a write-ahead log, once no other process writes to it.

    The first process that opens a new file switches it. If several try at once, SQLite does not wait but refuses
    all but one immediately, to avoid a deadlock (https://sqlite.org/c3ref/busy_handler.html).
    """
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
        time.sleep(BUSY_PAUSE_SECONDS)
