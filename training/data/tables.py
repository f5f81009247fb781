"""Raw tables: source records as columns with our names and types, with the file and row of each.

Rejected records are counted by reason. Knows nothing of file formats, nor of what makes a domain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from training.data.report import Findings, Kind, Problem
from training.data.values import BadValue, Converter

_CHUNK = 50_000
"""Number of records held as Python objects before they are converted to columns."""

PLACE = {"file": pl.UInt32(), "row": pl.Int64()}
"""Columns of every raw table: number of the file among the table's files, and row within it."""

ITEM_TYPES: dict[str, pl.DataType] = {
    "item_id": pl.String(),
    "title": pl.String(),
    "brand": pl.String(),
    "categories": pl.List(pl.String()),
    "description": pl.String(),
    "price": pl.Float64(),
}
INTERACTION_TYPES: dict[str, pl.DataType] = {
    "user_id": pl.String(),
    "item_id": pl.String(),
    "position": pl.Float64(),
    "timestamp": pl.Float64(),
    "rating": pl.Float64(),
}
"""Timestamps are milliseconds; numbers stay floats until they are checked."""

ESSENTIAL = frozenset({"user_id", "item_id", "position", "timestamp"})
"""A record is dropped if a value of these fields cannot be read; in other fields the value becomes null."""


@dataclass(frozen=True)
class Fields:
    """How records are read.

    Attributes
    ----------
    types : our columns
    names : our name -> name in the source, for look-ups and messages
    converters : our name -> converter of values
    expected : names in the source that every file must have
    milliseconds : per unit of numeric timestamps
    """

    types: Mapping[str, pl.DataType]
    names: Mapping[str, str]
    converters: Mapping[str, Converter]
    expected: frozenset[str]
    milliseconds: float = 1.0


@dataclass(frozen=True)
class RawTable:
    """Rows of one domain's items or interactions, before any check across rows.

    Attributes
    ----------
    frame : `PLACE` and our columns
    files : names of the files, by number
    names : our name -> name in the source
    read : number of records read, including dropped ones
    dropped : number of records not in `frame`, by reason
    emptied : number of unreadable values set to null, by reason
    """

    frame: pl.DataFrame
    files: tuple[str, ...]
    names: Mapping[str, str]
    read: int
    dropped: Counter[str]
    emptied: Counter[str]


@dataclass
class Collector:
    """Collects records one by one, or whole frames, into a `RawTable`."""

    fields: Fields
    findings: Findings
    files: list[str] = field(default_factory=list)
    read: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    emptied: Counter[str] = field(default_factory=Counter)
    _chunks: list[pl.DataFrame] = field(default_factory=list)
    _columns: dict[str, list[object]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._clear()

    def start_file(self, name: str) -> None:
        """Set the file that the next records come from."""
        self.files.append(name)

    def reject(self, kind: Kind, row: int, reason: str, source_field: str | None = None) -> None:
        """Count and report a record that cannot be used."""
        self.read += 1
        self.dropped[kind.value] += 1
        self.findings.add(Problem(kind, self.files[-1], row, source_field, reason))

    def take(self, row: int, record: Mapping[str, object]) -> None:
        """Add a record with our names; missing keys become null."""
        values: dict[str, object] = {}
        for name, convert in self.fields.converters.items():
            try:
                values[name] = convert(record.get(name))
            except BadValue as bad:
                source_field = self.fields.names[name]
                if name in ESSENTIAL:
                    self.reject(bad.kind, row, bad.reason, source_field)
                    return
                self.emptied[bad.kind.value] += 1
                problem = Problem(bad.kind, self.files[-1], row, source_field, bad.reason)
                self.findings.add(problem, bad.notice)
                values[name] = None
        self.read += 1
        self._columns["file"].append(len(self.files) - 1)
        self._columns["row"].append(row)
        for name, value in values.items():
            self._columns[name].append(value)
        if len(self._columns["row"]) >= _CHUNK:
            self._flush()

    def take_frame(self, frame: pl.DataFrame) -> None:
        """Add a whole file whose columns already have our names and types; rows are numbered from 1."""
        self.read += len(frame)
        place = (
            pl.lit(len(self.files) - 1, pl.UInt32()).alias("file"),
            pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias("row"),
        )
        self._flush()
        self._chunks.append(frame.select(*place, *self.fields.types))

    def table(self) -> RawTable:
        """All records so far, in order."""
        self._flush()
        frame = pl.concat(self._chunks, rechunk=True)
        return RawTable(frame, tuple(self.files), self.fields.names, self.read, self.dropped, self.emptied)

    def _flush(self) -> None:
        self._chunks.append(pl.DataFrame(self._columns, schema={**PLACE, **self.fields.types}))
        self._clear()

    def _clear(self) -> None:
        self._columns = {name: [] for name in (*PLACE, *self.fields.types)}
