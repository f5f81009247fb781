"""Tables of the embedded catalogue, and SQL helpers shared by its operations.

Every function runs within its caller's transaction. Independent of connections.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from service.catalogue.fingerprint import item_part
from service.catalogue.store_rules import MAX_DOMAINS, too_many_domains

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS domain (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS item (
    domain INTEGER NOT NULL, item_id TEXT NOT NULL, packed INTEGER NOT NULL, live INTEGER NOT NULL,
    title TEXT, content TEXT, PRIMARY KEY (domain, item_id)
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS item_of_id ON item (domain, packed);
CREATE TABLE IF NOT EXISTS change (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, domain INTEGER NOT NULL, item_id TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS fingerprint (domain INTEGER PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS checkpoint (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


INSERT = "INSERT INTO item VALUES (?, ?, ?, ?, ?, ?)"


class DomainNumbers:
    """Maps domain names to numbers within one transaction; adds missing domains, and looks up lazily.

    Raises
    ------
    LimitExceeded : the store has too many domains; a transaction that this error rolls back stores nothing
    """

    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self._cursor = cursor
        self._numbers: dict[str, int] = {}

    def known(self, name: str) -> int | None:
        """Number of a domain, None for an unknown one."""
        if name not in self._numbers:
            row = self._cursor.execute("SELECT number FROM domain WHERE name = ?", (name,)).fetchone()
            if row is None:
                return None
            self._numbers[name] = int(row[0])
        return self._numbers[name]

    def __getitem__(self, name: str) -> int:
        number = self.known(name)
        if number is None:
            self._cursor.execute("INSERT INTO domain (name) VALUES (?)", (name,))
            number = self._numbers[name] = int(self._cursor.lastrowid or 0)
            # Numbers begin at 1, and no domain is ever removed.
            if number > MAX_DOMAINS:
                raise too_many_domains(name)
        return number


class Parts:
    """Fingerprint changes accumulated in one transaction, by domain number; see `service.catalogue.fingerprint`."""

    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self._cursor = cursor
        self._changes: defaultdict[int, int] = defaultdict(int)

    def toggle(self, domain: int, item_id: str, packed: int) -> None:
        """Add or remove an item; `packed` may be signed or unsigned."""
        self._changes[domain] ^= item_part(item_id, unsigned(packed))

    def save(self) -> None:
        """Write the changes; call once, at the end of the transaction."""
        for domain, change in self._changes.items():
            self._cursor.execute("SELECT value FROM fingerprint WHERE domain = ?", (domain,))
            (known,) = self._cursor.fetchone() or (0,)
            self._cursor.execute(
                "INSERT OR REPLACE INTO fingerprint VALUES (?, ?)", (domain, signed(unsigned(known) ^ change))
            )


@contextmanager
def snapshot(cursor: sqlite3.Cursor) -> Iterator[None]:
    """Read transaction: all reads in the block see the same snapshot."""
    cursor.execute("BEGIN")
    try:
        yield
    finally:
        cursor.execute("COMMIT")


def record(cursor: sqlite3.Cursor, domain: int, item_id: str) -> None:
    """Append an item to the change log."""
    cursor.execute("INSERT INTO change (domain, item_id) VALUES (?, ?)", (domain, item_id))


def trim(cursor: sqlite3.Cursor, kept: int) -> None:
    """Delete all but the latest `kept` changes from the log."""
    cursor.execute("DELETE FROM change WHERE sequence <= ?", (head_of(cursor) - kept,))


def head_of(cursor: sqlite3.Cursor) -> int:
    """Sequence number of the latest change."""
    row = cursor.execute("SELECT seq FROM sqlite_sequence WHERE name = 'change'").fetchone()
    return row[0] if row else 0


def is_seeded(cursor: sqlite3.Cursor) -> bool:
    """Whether the bundle's own catalogue is complete."""
    return cursor.execute("SELECT 1 FROM meta WHERE name = 'seeded'").fetchone() is not None


def is_dropped(cursor: sqlite3.Cursor | sqlite3.Connection) -> bool:
    """Whether the generation was dropped."""
    return cursor.execute("SELECT 1 FROM meta WHERE name = 'dropped'").fetchone() is not None


def signed(packed: int) -> int:
    """Convert to SQLite's signed integers; keeps the order within a group, whose IDs differ only in the low bits."""
    return packed - (1 << 64) if packed >= 1 << 63 else packed


def unsigned(packed: int) -> int:
    """Inverse of `signed`."""
    return packed & ((1 << 64) - 1)
