"""In-memory table of the live items: columns by ordinal, texts in one byte array, and a hash table over keys.

An *ordinal* is an item's row, and its leaf in the constraint index. It is never reused after its item was deleted, and
the row stays readable, since a running search may still hold it. Look-ups are safe while another thread changes the
table; only one thread at a time may change it. An item costs 25 bytes and a slot of the hash table, plus its item_id
and title as UTF-8 with a header of 6 bytes. Independent of tries and stores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.catalogue.columns import ItemColumns
from service.catalogue.hash_slots import HashSlots
from service.catalogue.key_hashes import KeyHashes
from service.catalogue.records import NO_ID, ItemKey
from service.catalogue.texts import Texts
from service.semantic_ids import TokenLayout

IntArray = NDArray[np.int32]

SMALLEST = 1024
COMPACTED_ROWS = 65536
"""Rows whose texts are copied per step."""

COLUMNS = {"packed": np.uint64, "domain": np.int32, "hash": np.uint32, "text": np.int64, "live": np.bool_}


@dataclass(frozen=True, slots=True, eq=False)
class CatalogueEntry:
    """A live item as the service uses it; `values` is its semantic ID, int32 [L + N + 1]."""

    ordinal: int
    domain: str
    item_id: str
    title: str | None
    values: IntArray


class CatalogueTable:
    """Rows of items, looked up by key or by ordinal."""

    def __init__(self, layout: TokenLayout) -> None:
        self._layout = layout
        self._columns: dict[str, NDArray[Any]] = {
            name: np.zeros(SMALLEST, dtype=dtype) for name, dtype in COLUMNS.items()
        }
        self._used = 0
        self._texts = Texts()
        self._dead_text = 0
        self._hashes = KeyHashes()
        self._slots = HashSlots()
        self._names: list[str] = []
        self._numbers: dict[str, int] = {}
        self._counts: list[int] = []

    @classmethod
    def from_arrays(
        cls, layout: TokenLayout, arrays: Mapping[str, NDArray[Any]], names: Sequence[str]
    ) -> CatalogueTable:
        """Restore a table from `arrays` and `domains`; it takes over the arrays, which may be memory-mapped."""
        table = cls(layout)
        table._columns = {name: arrays[name] for name in COLUMNS}
        table._used = len(arrays["packed"])
        table._texts = Texts(arrays["texts"])
        table._dead_text = int(arrays["dead_text"][0])
        table._hashes = KeyHashes(arrays["salt"].tobytes())
        table._slots = HashSlots(arrays["slots"])
        table._names = list(names)
        table._numbers = {name: number for number, name in enumerate(names)}
        live = table._columns["domain"][table._columns["live"]]
        table._counts = np.bincount(live, minlength=len(names)).tolist()
        return table

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything but the names of the domains, for `from_arrays`; the table must not change meanwhile."""
        columns = {name: column[: self._used] for name, column in self._columns.items()}
        salt = np.frombuffer(self._hashes.salt, dtype=np.uint8)
        texts = {"texts": self._texts.joined(), "dead_text": np.array([self._dead_text])}
        return {**columns, **texts, "salt": salt, "slots": self._slots.values}

    def nbytes(self) -> tuple[int, int]:
        """Bytes in use: of columns and hash table, and of texts."""
        columns = sum(column.itemsize for column in self._columns.values()) * self._used
        return columns + self._slots.values.nbytes, self._texts.used

    def slack(self) -> float:
        """Share of deleted rows, or of texts that no live row uses; the greater of the two."""
        return max(1 - sum(self._counts) / max(self._used, 1), self._dead_text / max(self._texts.used, 1))

    def domains(self) -> list[str]:
        """All domains that ever held an item, in order of their first item."""
        return list(self._names)

    def counts(self) -> dict[str, int]:
        """Number of live items of each non-empty domain."""
        return {name: count for name, count in zip(self._names, list(self._counts), strict=False) if count}

    def ordinal(self, key: ItemKey, deleted: bool = False) -> int | None:
        """Row of a live item; with `deleted`, else that of a recently deleted one."""
        number = self._numbers.get(key.domain)
        if number is None:
            return None
        name = key.item_id.encode("utf-8", errors="surrogatepass")
        hashed = self._hashes.of(number, name)
        gone = None
        # The slots are read first: the rows they refer to exist in every later version of the columns.
        for row in self._slots.rows(hashed):
            columns = self._columns
            if (
                columns["hash"].item(row) == hashed
                and columns["domain"].item(row) == number
                and self._texts.name(columns["text"].item(row)) == name
            ):
                if columns["live"].item(row):
                    return row
                gone = row
        return gone if deleted else None

    def has_id(self, ordinal: int, packed: int) -> bool:
        """Whether a row has this semantic ID."""
        return int(self._columns["packed"][ordinal]) == packed

    def title(self, ordinal: int) -> str | None:
        """The title of a row's item."""
        return self._texts.read(int(self._columns["text"][ordinal]))[1]

    def values(self, ordinals: Sequence[int] | NDArray[np.integer]) -> IntArray:
        """Semantic IDs of rows, int32 [n, L + N + 1]."""
        return self._layout.unpack(self._columns["packed"][np.asarray(ordinals, dtype=np.int64)])

    def rows(self) -> tuple[IntArray, IntArray]:
        """All live items: ordinal int32 [n], and domain int32 [n] as an index into `domains`."""
        ordinals = np.flatnonzero(self._columns["live"][: self._used]).astype(np.int32)
        return ordinals, self._columns["domain"][ordinals]

    def entries(self, keys: Sequence[ItemKey]) -> list[CatalogueEntry | None]:
        """Live items in the order of `keys`, None for a missing one."""
        ordinals = [self.ordinal(key) for key in keys]
        found = iter(self.entries_at([ordinal for ordinal in ordinals if ordinal is not None]))
        return [None if ordinal is None else next(found) for ordinal in ordinals]

    def ids(self, keys: Sequence[ItemKey]) -> IntArray:
        """Semantic IDs of live items in the order of `keys`, int32 [n, L + N + 1]; `NO_ID` for a missing one."""
        ordinals = [self.ordinal(key) for key in keys]
        there = [ordinal for ordinal in ordinals if ordinal is not None]
        values = self.values(there)
        if len(there) == len(keys):
            return values
        ids = np.full((len(keys), self._layout.depth), NO_ID, dtype=np.int32)
        ids[[ordinal is not None for ordinal in ordinals]] = values
        return ids

    def entries_at(self, ordinals: Sequence[int]) -> list[CatalogueEntry]:
        """Items of rows, recently deleted ones included."""
        rows, columns = np.asarray(ordinals, dtype=np.int64), self._columns
        domains, texts = columns["domain"][rows].tolist(), columns["text"][rows].tolist()
        return [
            CatalogueEntry(ordinal, self._names[number], *self._texts.read(text), values)
            for ordinal, number, text, values in zip(rows.tolist(), domains, texts, self.values(rows), strict=True)
        ]

    def next_rows(self, count: int) -> range:
        """The rows that the next `count` items will get."""
        return range(self._used, self._used + count)

    def add(self, items: ItemColumns) -> range:
        """Append items that are not in the table; returns their rows."""
        first, end = self._used, self._used + len(items)
        self._fit(end)
        columns, numbers = self._columns, [self._number(domain) for domain in items.domains]
        columns["packed"][first:end] = items.packed
        columns["domain"][first:end] = np.array(numbers, dtype=np.int32)[items.domain]
        columns["text"][first:end] = self._texts.add(items.names, items.titles)
        columns["hash"][first:end] = self._hashes.of_all(numbers, items)
        columns["live"][first:end] = True
        self._used = end
        # Last, since this makes the rows visible to other threads.
        self._seat(np.arange(first, end))
        for number, count in zip(numbers, np.bincount(items.domain, minlength=len(numbers)).tolist(), strict=True):
            self._counts[number] += count
        return range(first, end)

    def retitle(self, ordinal: int, title: str | None) -> None:
        """Change the title of an item."""
        place = int(self._columns["text"][ordinal])
        name = self._texts.name(place)
        self._dead_text += self._texts.size(place)
        self._columns["text"][ordinal] = self._texts.add([name], [None if title is None else title.encode()])[0]

    def remove(self, key: ItemKey) -> None:
        """Mark an item's row as deleted."""
        ordinal = self.ordinal(key)
        if ordinal is None:
            raise KeyError(f"{key} is not in the table")
        self._columns["live"][ordinal] = False
        self._dead_text += self._texts.size(int(self._columns["text"][ordinal]))
        self._counts[self._numbers[key.domain]] -= 1

    def compacted(self, rows: IntArray) -> CatalogueTable:
        """A copy with only these rows, renumbered in this order; this table may change meanwhile."""
        table, columns = CatalogueTable(self._layout), self._columns
        table._hashes = self._hashes
        for name in self._names:
            table._number(name)
        table._fit(len(rows))
        for first in range(0, len(rows), COMPACTED_ROWS):
            part = rows[first : first + COMPACTED_ROWS]
            end = first + len(part)
            for name in ("packed", "domain", "hash"):
                table._columns[name][first:end] = columns[name][part]
            table._columns["text"][first:end] = table._texts.adopt(self._texts, columns["text"][part])
            table._columns["live"][first:end] = True
        table._used = len(rows)
        table._seat(np.arange(len(rows)))
        table._counts = np.bincount(table._columns["domain"][: len(rows)], minlength=len(table._names)).tolist()
        return table

    def _seat(self, rows: NDArray[np.int64]) -> None:
        """Insert rows into the hash table; if it is too full, rebuild it with the live rows only."""
        hashed = self._columns["hash"]
        if self._slots.fits(len(rows)):
            self._slots.place(rows, hashed[rows])
        else:
            live, slots = np.flatnonzero(self._columns["live"][: self._used]), HashSlots.for_rows(self._used)
            slots.place(live, hashed[live])
            self._slots = slots

    def _number(self, domain: str) -> int:
        if domain not in self._numbers:
            self._names.append(domain)
            self._counts.append(0)
            self._numbers[domain] = len(self._names) - 1
        return self._numbers[domain]

    def _fit(self, needed: int) -> None:
        """Grow the columns by copying; concurrent readers continue on the old arrays."""
        room = len(self._columns["packed"])
        if needed > room:
            larger: dict[str, NDArray[Any]] = {
                name: np.zeros(max(needed, room + room // 2), dtype) for name, dtype in COLUMNS.items()
            }
            for name, column in larger.items():
                column[: self._used] = self._columns[name][: self._used]
            self._columns = larger
