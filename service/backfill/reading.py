"""Files of items as a stream of records: Parquet, CSV and JSON lines, of any size, from any record on.

Parquet goes through Polars' streaming engine. CSV and JSON lines are read line by line, so that one broken line is one
bad record with its line number and not the end of the file; both may be gzipped. Knows nothing of what fields mean.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, cast

import orjson
import polars as pl

from service.backfill.csv_lines import CsvLines
from service.errors import InvalidInput
from service.parquet import PARQUET_ERRORS

PARQUET_ROWS = 1024
"""Rows that are turned into records at a time."""

GZIP_MAGIC = b"\x1f\x8b"


class FileFormat(StrEnum):
    """Formats that can be read."""

    PARQUET = "parquet"
    CSV = "csv"
    JSONL = "jsonl"


SUFFIXES = {
    ".parquet": FileFormat.PARQUET,
    ".csv": FileFormat.CSV,
    ".jsonl": FileFormat.JSONL,
    ".ndjson": FileFormat.JSONL,
    ".json": FileFormat.JSONL,
}


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a file.

    Attributes
    ----------
    row : row of a Parquet file, first line of the record in a text file; both from 1
    fields : values by the file's own names
    broken : why the record cannot be read at all; `fields` is empty then
    """

    row: int
    fields: dict[str, Any]
    broken: str | None = None


def format_of(path: Path) -> FileFormat:
    """Format by the file's name, `.gz` aside.

    Raises
    ------
    InvalidInput : the name does not tell
    """
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    if suffixes and suffixes[-1] in SUFFIXES:
        return SUFFIXES[suffixes[-1]]
    raise InvalidInput(f"{path}: the name does not tell the format; give --format parquet, csv or jsonl")


def columns_of(path: Path, kind: FileFormat) -> list[str] | None:
    """Names of a file's columns; None for JSON lines, where every record has its own.

    Raises
    ------
    InvalidInput : the file is missing, or its head cannot be read
    """
    if not path.is_file():
        raise InvalidInput(f"{path}: no such file")
    if kind is FileFormat.PARQUET:
        try:
            return list(pl.scan_parquet(path, glob=False).collect_schema())
        except PARQUET_ERRORS as error:
            raise InvalidInput(f"{path}: cannot be read as Parquet: {error}") from error
    if kind is FileFormat.CSV:
        with _open(path) as raw, _text(raw) as lines:
            try:
                header = next(csv.reader(lines, strict=True), None)
            except (csv.Error, EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise InvalidInput(f"{path}: line 1 is no header of a CSV file: {error}") from error
        if not header:
            raise InvalidInput(f"{path}: line 1 is empty, but must name the columns")
        if len(set(header)) < len(header):
            raise InvalidInput(f"{path}: the header {header} names a column twice")
        return header
    return None


def count_rows(path: Path, kind: FileFormat) -> int | None:
    """Number of records where that is known without reading the file.

    Raises
    ------
    InvalidInput : the file is no Parquet
    """
    if kind is not FileFormat.PARQUET:
        return None
    try:
        rows: int = pl.scan_parquet(path, glob=False).select(pl.len()).collect().item()
    except PARQUET_ERRORS as error:
        raise InvalidInput(f"{path}: cannot be read as Parquet: {error}") from error
    return rows


def read_records(path: Path, kind: FileFormat, columns: Sequence[str], skip: int = 0) -> Iterator[Record]:
    """Records of a file in its order, broken ones included.

    Parameters
    ----------
    columns : names that are wanted, at least; ones that the file lacks are ignored
    skip : records, broken ones included, to pass over first

    Raises
    ------
    InvalidInput : the rest of the file cannot be read: it is cut off, or no Parquet
    """
    if kind is FileFormat.PARQUET:
        yield from _parquet_records(path, columns, skip)
        return
    with _open(path) as raw:
        records = _csv_records(raw) if kind is FileFormat.CSV else _json_records(raw)
        try:
            for number, record in enumerate(records):
                if number >= skip:
                    yield record
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InvalidInput(f"{path}: the gzip stream breaks off ({error}); fetch the file again") from error


def _parquet_records(path: Path, columns: Sequence[str], skip: int) -> Iterator[Record]:
    row = skip
    try:
        frame = pl.scan_parquet(path, glob=False)
        present = set(frame.collect_schema())
        wanted = frame.select(column for column in dict.fromkeys(columns) if column in present).slice(skip)
        for batch in wanted.collect_batches(chunk_size=PARQUET_ROWS, maintain_order=True, lazy=True):
            for fields in batch.iter_rows(named=True):
                row += 1
                yield Record(row, fields)
    except PARQUET_ERRORS as error:
        raise InvalidInput(f"{path}: cannot be read as Parquet after row {row}: {error}") from error


def _csv_records(raw: IO[bytes]) -> Iterator[Record]:
    """RFC 4180 with a header line; blank lines are passed over."""
    with _text(raw) as lines:
        taken = CsvLines(lines)
        reader = csv.reader(taken, strict=True)
        header = next(reader)
        while True:
            row = taken.begin()
            try:
                values = next(reader, None)
            except csv.Error as error:
                yield Record(row, {}, taken.pass_over(error))
                continue
            if values is None:
                return
            if not values:
                continue
            if len(values) != len(header):
                yield Record(row, {}, f"has {len(values)} fields, but the header names {len(header)}")
            else:
                yield Record(row, dict(zip(header, values, strict=True)))


def _json_records(raw: IO[bytes]) -> Iterator[Record]:
    """One JSON object a line; blank lines are passed over."""
    for row, line in enumerate(raw, start=1):
        content = line.removeprefix(b"\xef\xbb\xbf") if row == 1 else line
        if not content.strip():
            continue
        try:
            value = _json(content)
        except (ValueError, RecursionError) as error:
            yield Record(row, {}, f"not JSON: {error}; one JSON object a line is expected")
            continue
        if isinstance(value, dict):
            yield Record(row, value)
        else:
            yield Record(row, {}, f"is a JSON {type(value).__name__}; one JSON object a line is expected")


def _json(content: bytes) -> Any:
    """A JSON value; NaN and Infinity, which Python and pandas write, are taken for the checks of fields to judge."""
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return json.loads(content.decode("utf-8"))


def _open(path: Path) -> IO[bytes]:
    """A file's bytes, unpacked; gzip is recognised by its first bytes, not by the name."""
    with path.open("rb") as file:
        packed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    return cast(IO[bytes], gzip.open(path, "rb")) if packed else path.open("rb")


def _text(raw: IO[bytes]) -> io.TextIOWrapper:
    """Text of a file; bytes that are no UTF-8 become halves of surrogate pairs, for the checks of fields to find."""
    return io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="")
