"""Queries on an embedded catalogue: items, totals, the change log, and the generations in a folder.

Independent of how IDs are allocated.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from service.catalogue.columns import ItemColumns
from service.catalogue.embedded_tables import SCHEMA, head_of, is_dropped, is_seeded, snapshot, unsigned
from service.catalogue.records import Changes, Generation, ItemKey, StoredItem, StoreStatus, Totals
from service.catalogue.sqlite_file import SqliteFile
from service.catalogue.sqlite_readonly import connect_readonly, nobody_writes
from service.catalogue.store_rules import is_whole
from service.errors import NotReady, StoreUnavailable
from service.semantic_ids import TokenLayout

SCAN_ROWS = 4096


class EmbeddedReader:
    """The read operations of `service.catalogue.store.CatalogueStore`.

    Parameters
    ----------
    path : the file; created with its folder if missing
    generation : `BUNDLE:GENERATION`, for messages
    layout : how its IDs are packed
    looking : if the folder is not writable, open the existing file read-only
    """

    def __init__(self, path: Path, generation: str, layout: TokenLayout, *, looking: bool) -> None:
        self._path = path
        self._generation = generation
        self._layout = layout
        self._file = SqliteFile(path, SCHEMA, looking=looking)

    @property
    def layout(self) -> TokenLayout:
        """How semantic IDs are packed."""
        return self._layout

    def seeded(self) -> bool:
        """Whether `finish_seed` was called."""
        with self._file.reading() as cursor:
            return is_seeded(cursor)

    def get(self, keys: Sequence[ItemKey]) -> list[StoredItem | None]:
        """Live items in the order of `keys`, None for a missing one."""
        found: list[StoredItem | None] = []
        with self._file.reading() as cursor:
            for key in keys:
                cursor.execute(
                    "SELECT packed, title, content FROM item JOIN domain ON domain.number = item.domain "
                    "WHERE domain.name = ? AND item_id = ? AND live = 1",
                    key,
                )
                row = cursor.fetchone()
                found.append(row and StoredItem(*key, unsigned(row[0]), row[1], row[2]))
        return found

    def scan(self) -> Iterator[list[StoredItem]]:
        """All live items in batches, in no order, without their content; a snapshot of this moment."""
        for batch in self.columns():
            yield batch.items()

    def columns(self) -> Iterator[ItemColumns]:
        """The items of `scan`, as columns."""
        with self._file.scanning() as cursor, snapshot(cursor):
            numbered = dict(cursor.execute("SELECT number, name FROM domain").fetchall())
            cursor.execute("SELECT domain, CAST(item_id AS BLOB), packed, CAST(title AS BLOB) FROM item WHERE live = 1")
            while batch := cursor.fetchmany(SCAN_ROWS):
                numbers, names, packed, titles = zip(*batch, strict=True)
                present, domain = np.unique(np.array(numbers, dtype=np.int64), return_inverse=True)
                yield ItemColumns(
                    tuple(numbered[number] for number in present.tolist()),
                    domain.astype(np.int32),
                    list(names),
                    np.array(packed, dtype=np.int64).view(np.uint64),
                    list(titles),
                )

    def rows(self) -> Iterator[list[StoredItem]]:
        """All items in batches, with deleted ones and contents; a consistent snapshot."""
        with self._file.scanning() as cursor:
            rows = cursor.execute(
                "SELECT name, item_id, packed, title, content, live FROM item JOIN domain ON number = item.domain"
            )
            while batch := rows.fetchmany(SCAN_ROWS):
                yield [StoredItem(row[0], row[1], unsigned(row[2]), row[3], row[4], bool(row[5])) for row in batch]

    def suffixes_used(self) -> None:
        """No counters are stored: the greatest suffix of a group is read from its items."""
        return

    def totals(self) -> Totals:
        """Head, counts and fingerprints, read atomically."""
        with self._file.reading() as cursor, snapshot(cursor):
            counts = cursor.execute(
                "SELECT name, count(*) FROM item JOIN domain ON number = item.domain WHERE live = 1 GROUP BY domain"
            ).fetchall()
            parts = cursor.execute("SELECT name, value FROM fingerprint JOIN domain ON number = domain").fetchall()
            return Totals(head_of(cursor), dict(counts), {name: unsigned(part) for name, part in parts if part})

    def head(self) -> int:
        """Sequence number of the latest change, 0 before the first."""
        with self._file.reading() as cursor:
            return head_of(cursor)

    def changes(self, after: int, limit: int = 10_000) -> Changes:
        """At most `limit` changes after a sequence number."""
        with self._file.reading() as cursor, snapshot(cursor):
            if is_dropped(cursor):
                raise NotReady(f"{self._path}: the generation was dropped")
            head = head_of(cursor)
            rows = cursor.execute(
                "SELECT sequence, name, item_id FROM change JOIN domain ON domain.number = change.domain "
                "WHERE sequence > ? ORDER BY sequence LIMIT ?",
                (after, limit),
            ).fetchall()
        if not is_whole(after, head, [row[0] for row in rows], limit):
            return Changes((), head, gap=True, lost=after > head)
        return Changes(tuple(ItemKey(name, item_id) for _, name, item_id in rows), rows[-1][0] if rows else after)

    def checkpoint(self, name: str) -> str | None:
        """The value stored by `save_checkpoint` under a name."""
        with self._file.reading() as cursor:
            row = cursor.execute("SELECT value FROM checkpoint WHERE name = ?", (name,)).fetchone()
            return row and str(row[0])

    def status(self) -> StoreStatus:
        """Counts and state, for display."""
        totals = self.totals()
        with self._file.reading() as cursor:
            seeded, (length,) = is_seeded(cursor), cursor.execute("SELECT count(*) FROM change").fetchone()
        return StoreStatus(
            kind="embedded",
            where=str(self._path),
            generation=self._generation,
            seeded=seeded,
            items=totals.items,
            fingerprints=totals.fingerprints,
            head=totals.head,
            log_length=length,
            bytes=self._file.nbytes(),
        )

    def close(self) -> None:
        """Close connections; the store must not be used afterwards."""
        self._file.close()


def generations(folder: Path) -> Iterator[Generation]:
    """All generations in a folder, sorted by name; skips files that are still being created.

    Raises
    ------
    StoreUnavailable : a file with such a name is not a catalogue
    """
    for path in sorted(folder.glob("*@*.sqlite3")):
        bundle, _, number = path.stem.rpartition("@")
        if not number.isdecimal():
            continue
        try:
            with closing(connect_readonly(path, nobody_writes(path))) as connection:
                if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone() is None:
                    continue
                layout = connection.execute("SELECT value FROM meta WHERE name = 'layout'").fetchone()
                dropped = is_dropped(connection)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"embedded store {path}: {error}") from error
        if layout is not None:
            yield Generation(bundle, int(number), TokenLayout(**json.loads(layout[0])), dropped)
