"""The embedded catalogue store: one SQLite file per ID generation in a folder, without a server.

Write-ahead log with a full sync at every commit, so acknowledged changes survive `kill -9` and a power cut. Several
processes of one machine may share the folder (a backfill beside the service): SQLite lets one of them write at a time.
The unique index over (domain, ID), tombstones included, prevents that an ID is given twice. Suffix counters and item
counts are derived from it; only the fingerprints are stored separately.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from service.catalogue.embedded_reading import EmbeddedReader
from service.catalogue.embedded_tables import (
    INSERT,
    DomainNumbers,
    Parts,
    head_of,
    is_dropped,
    is_seeded,
    record,
    signed,
    trim,
    unsigned,
)
from service.catalogue.records import REFUSED, ItemKey, NewItem, Outcome, Registered, StoredItem, Totals
from service.catalogue.store import CHANGES_KEPT
from service.catalogue.store_rules import base_ids, check_items, dropped_text, layout_of_ids
from service.errors import BundleError, ConfigError, NotReady
from service.semantic_ids import TokenLayout


class EmbeddedStore(EmbeddedReader):
    """See `service.catalogue.store.CatalogueStore`.

    Parameters
    ----------
    folder : created if missing
    bundle, generation : name the file, `BUNDLE@GENERATION.sqlite3`
    layout : must be the one that the file was created with
    looking : if the folder is not writable, open the existing file read-only
    """

    def __init__(
        self, folder: Path, bundle: str, generation: int, layout: TokenLayout, *, looking: bool = False
    ) -> None:
        super().__init__(folder / f"{bundle}@{generation}.sqlite3", f"{bundle}:{generation}", layout, looking=looking)
        try:
            self._check_layout()
        except BaseException:
            # The caller cannot do it: it gets an error, not a store to close.
            self.close()
            raise

    def seed(self, items: Sequence[StoredItem]) -> None:
        """Store items of the bundle's catalogue with their IDs; idempotent, and does nothing after `finish_seed`."""
        check_items(items)
        with self._file.transaction() as cursor:
            self._require_kept(cursor)
            if is_seeded(cursor):
                return
            numbers, parts = DomainNumbers(cursor), Parts(cursor)
            for item in items:
                key, packed = (numbers[item.domain], item.item_id), signed(item.packed)
                cursor.execute("SELECT packed FROM item WHERE domain = ? AND item_id = ?", key)
                known = cursor.fetchone()
                if known is None:
                    try:
                        cursor.execute(INSERT, (*key, packed, 1, item.title, item.content))
                    except sqlite3.IntegrityError:
                        raise BundleError(
                            f"catalogue of {self._generation}: item {item.item_id!r} of domain {item.domain!r} has "
                            "the semantic ID of another item"
                        ) from None
                    parts.toggle(*key, packed)
                elif known != (packed,):
                    raise BundleError(
                        f"catalogue of {self._generation}: item {item.item_id!r} of domain {item.domain!r} has two IDs"
                    )
            parts.save()

    def restore(self, items: Sequence[StoredItem], dry: bool = False) -> list[Outcome]:
        """Restore items with their published IDs; returns one outcome per item, in order."""
        check_items(items)
        packed = np.array([item.packed for item in items], dtype=np.uint64)
        bases = packed - self._layout.unpack(packed)[:, -1].astype(np.uint64)
        outcomes = []
        with self._file.transaction() as cursor:
            self._require_kept(cursor)
            cursor.execute("SAVEPOINT restoring")
            numbers, parts, seeded = DomainNumbers(cursor), Parts(cursor), is_seeded(cursor)
            for item, base in zip(items, bases.tolist(), strict=True):
                number = numbers[item.domain]
                outcomes.append(self._restorable(cursor, number, item, base))
                if outcomes[-1] is Outcome.ADDED:
                    row = (number, item.item_id, signed(item.packed), item.live, item.title, item.content or None)
                    cursor.execute(INSERT, row)
                    if item.live:
                        parts.toggle(number, item.item_id, item.packed)
                    if seeded:
                        record(cursor, number, item.item_id)
            if dry:
                cursor.execute("ROLLBACK TO restoring")
            else:
                parts.save()
                trim(cursor, CHANGES_KEPT)
        return outcomes

    def finish_seed(self) -> None:
        """Mark the bundle's catalogue as complete, which enables `register` and `delete`."""
        with self._file.transaction() as cursor:
            self._require_kept(cursor)
            cursor.execute("INSERT OR REPLACE INTO meta VALUES ('seeded', 'yes')")

    def register(self, items: Sequence[NewItem]) -> Registered:
        """Store items and allocate their suffixes in one transaction."""
        bases = base_ids(items, self._layout)
        values = np.full((len(items), self._layout.depth), REFUSED, dtype=np.int32)
        created = np.zeros(len(items), dtype=bool)
        ids = bases.copy()
        with self._file.transaction() as cursor:
            self._require_seeded(cursor)
            numbers, parts = DomainNumbers(cursor), Parts(cursor)
            stored = np.zeros(len(items), dtype=bool)
            for row, item in enumerate(items):
                number = numbers[item.domain]
                packed, created[row] = self._register_one(cursor, number, item, int(bases[row]))
                if packed is not None:
                    ids[row], stored[row] = packed, True
                    if created[row]:
                        parts.toggle(number, item.item_id, packed)
            parts.save()
            trim(cursor, CHANGES_KEPT)
        values[stored] = self._layout.unpack(ids[stored])
        return Registered(values, created)

    def delete(self, key: ItemKey) -> bool:
        """Remove an item and keep its ID reserved (tombstone); False if it was not live."""
        with self._file.transaction() as cursor:
            self._require_seeded(cursor)
            number = DomainNumbers(cursor).known(key.domain)
            if number is None:
                return False
            cursor.execute(
                "UPDATE item SET live = 0, title = NULL, content = NULL WHERE domain = ? AND item_id = ? AND live = 1 "
                "RETURNING packed",
                (number, key.item_id),
            )
            deleted = cursor.fetchone()
            if deleted is None:
                return False
            parts = Parts(cursor)
            parts.toggle(number, key.item_id, deleted[0])
            parts.save()
            record(cursor, number, key.item_id)
            trim(cursor, CHANGES_KEPT)
            return True

    def mend(self, totals: Totals, suffixes_used: Sequence[tuple[str, int, int]]) -> bool:
        """Correct the stored fingerprints, the only derived data. False if not at the totals' head."""
        with self._file.transaction() as cursor:
            self._require_seeded(cursor)
            if head_of(cursor) != totals.head:
                return False
            numbers = DomainNumbers(cursor)
            cursor.execute("DELETE FROM fingerprint")
            rows = [(numbers[domain], signed(part)) for domain, part in totals.fingerprints.items()]
            cursor.executemany("INSERT INTO fingerprint VALUES (?, ?)", rows)
            return True

    def save_checkpoint(self, name: str, value: str) -> None:
        """Store a small text durably, for work that can resume."""
        with self._file.transaction() as cursor:
            self._require_kept(cursor)
            cursor.execute("INSERT OR REPLACE INTO checkpoint VALUES (?, ?)", (name, value))

    def drop(self) -> None:
        """Permanently remove all items; the generation can never be opened again."""
        with self._file.transaction() as cursor:
            cursor.execute("INSERT OR REPLACE INTO meta VALUES ('dropped', 'yes')")
            cursor.execute("DELETE FROM meta WHERE name = 'seeded'")
            for table in ("item", "domain", "change", "fingerprint", "checkpoint"):
                cursor.execute(f"DELETE FROM {table}")  # noqa: S608 - the names are ours
        self._file.vacuum()

    def _register_one(self, cursor: sqlite3.Cursor, domain: int, item: NewItem, base: int) -> tuple[int | None, bool]:
        """The item's ID (None if its group is full), and whether the item was not live before."""
        key, content = (domain, item.item_id), item.content or None
        cursor.execute("SELECT packed, live, title, content FROM item WHERE domain = ? AND item_id = ?", key)
        known = cursor.fetchone()
        if known is not None:
            packed, live, *texts = known
            if not live or texts != [item.title, content]:
                cursor.execute(
                    "UPDATE item SET live = 1, title = ?, content = ? WHERE domain = ? AND item_id = ?",
                    (item.title, content, *key),
                )
                record(cursor, *key)
            return unsigned(packed), not live
        packed = self._first_free(cursor, domain, base)
        if packed - signed(base) >= self._layout.suffixes:
            return None, False
        cursor.execute(INSERT, (*key, packed, 1, item.title, content))
        record(cursor, *key)
        return unsigned(packed), True

    def _restorable(self, cursor: sqlite3.Cursor, domain: int, item: StoredItem, base: int) -> Outcome:
        cursor.execute("SELECT packed FROM item WHERE domain = ? AND item_id = ?", (domain, item.item_id))
        known = cursor.fetchone()
        if known is not None:
            return Outcome.THERE if known == (signed(item.packed),) else Outcome.OTHER_ID
        free = self._first_free(cursor, domain, base)
        return Outcome.ADDED if signed(item.packed) >= free else Outcome.ID_GIVEN

    def _first_free(self, cursor: sqlite3.Cursor, domain: int, base: int) -> int:
        """The first ID above all that a group has allocated, tombstones included; signed."""
        first = signed(base)
        (last,) = cursor.execute(
            "SELECT max(packed) FROM item WHERE domain = ? AND packed BETWEEN ? AND ?",
            (domain, first, first + self._layout.suffixes - 1),
        ).fetchone()
        return first if last is None else int(last) + 1

    def _check_layout(self) -> None:
        expected = json.dumps(layout_of_ids(self._layout))
        found = self._stored_layout()
        if found is None:
            with self._file.transaction() as cursor:
                cursor.execute("INSERT OR IGNORE INTO meta VALUES ('layout', ?)", (expected,))
            found = self._stored_layout()
        if found != expected:
            raise ConfigError(
                f"{self._path} holds semantic IDs of layout {found}, but the bundle has {expected}: "
                "give a bundle with other IDs a new generation"
            )

    def _stored_layout(self) -> str | None:
        with self._file.reading() as cursor:
            if is_dropped(cursor):
                raise ConfigError(dropped_text(str(self._path), self._generation))
            row = cursor.execute("SELECT value FROM meta WHERE name = 'layout'").fetchone()
            return row and str(row[0])

    def _require_kept(self, cursor: sqlite3.Cursor) -> None:
        if is_dropped(cursor):
            raise NotReady(f"{self._path}: the generation was dropped")

    def _require_seeded(self, cursor: sqlite3.Cursor) -> None:
        if not is_seeded(cursor):
            raise NotReady(f"{self._path}: the bundle's own catalogue is not stored yet")
