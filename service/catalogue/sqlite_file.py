"""A SQLite file that several threads and processes write to: opened, written in synced transactions, read meanwhile.

Knows nothing of what is in its tables.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from service.catalogue.sqlite_looking import connect_to_look, log_of, may_write, nobody_writes
from service.errors import StoreUnavailable

BUSY_SECONDS = 30.0
"""How long a writer waits for another process's transaction."""

BUSY_PAUSE_SECONDS = 0.01
"""Between two attempts, where SQLite itself does not wait."""


class SqliteFile:
    """One connection that writes and one that reads, each for one thread at a time.

    A file that was deleted or replaced meanwhile is still open here, but nobody would find again what is written to it;
    so every block makes sure that the path leads to the file that was opened. The same goes for its write-ahead log,
    which holds what was committed last, and which stays the same file for as long as a connection is open.

    Parameters
    ----------
    path : created with its folder if need be
    schema : statements that create what is not there
    looking : where the folder may not be written to, open what is there for reading alone; changes then fail

    Raises
    ------
    StoreUnavailable : from here and from every block, where SQLite fails
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
        # Before the first page is read: connections to what nobody writes keep their pages.
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
        """One write transaction: committed, synced and so acknowledged when the block ends; undone if it raises."""
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
        """What is committed; each statement sees one moment."""
        with self._errors(), self._reading, closing(self._reader.cursor()) as cursor:
            self._require_same()
            yield cursor
            if self._immutable:
                self._require_same()

    @contextmanager
    def scanning(self) -> Iterator[sqlite3.Cursor]:
        """As `reading`, for work that takes long: on a connection of its own, so that nobody waits for it."""
        self._require_same()
        with self._errors(), closing(self._connect()) as connection, closing(connection.cursor()) as cursor:
            yield cursor
            if self._immutable:
                self._require_same()

    def vacuum(self) -> None:
        """Give back the room of what was removed."""
        with self._errors(), self._writing:
            self._writer.execute("VACUUM")

    def nbytes(self) -> int:
        """Size on disk, the write-ahead log included."""
        files = (self._path, log_of(self._path))
        return sum(file.stat().st_size for file in files if file.exists())

    def close(self) -> None:
        """Give up both connections; nothing may be asked afterwards."""
        with self._writing, self._reading:
            self._writer.close()
            self._reader.close()

    def _connect(self) -> sqlite3.Connection:
        if self._read_only:
            return connect_to_look(self._path, self._immutable)
        connection = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            _enter_wal(connection)
            connection.execute("PRAGMA synchronous = FULL")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _identity(self) -> tuple[int, ...] | None:
        """Which file the path leads to, and which log beside it; where nobody may write to it, since when.

        None where something is missing.
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
                # Pages of two moments look like a broken file.
                self._require_same()
            raise StoreUnavailable(f"embedded store {self._path}: {error}") from error


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Switch a file to a write-ahead log, as soon as nobody else writes to it.

    A new file is switched by the first who opens it. Of several who try at once SQLite makes none wait: it refuses
    all but one at once, since each may hold what another one needs (https://sqlite.org/c3ref/busy_handler.html).
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
