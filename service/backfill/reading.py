"""Streams records from Parquet, CSV and JSON-lines files of any size, starting at any record.

Parquet is read with Polars' streaming engine. CSV and JSON lines are read line by line, so a broken line costs one bad
record with its line number, not the rest of the file; both may be gzipped. Independent of what fields mean.
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
"""Rows converted to records per step."""

GZIP_MAGIC = b"\x1f\x8b"


class FileFormat(StrEnum):
    """Supported formats."""

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
    row : row in a Parquet file, first line of the record in a text file; both 1-based
    fields : values by column name in the file
    broken : why the record cannot be read; `fields` is then empty
    """

    row: int
    fields: dict[str, Any]
    broken: str | None = None


def format_of(path: Path) -> FileFormat:
    """Format from the file's name, ignoring `.gz`.

    Raises
    ------
    InvalidInput : the name has no known suffix
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
    """Number of records, None if unknown without reading the file.

    Raises
    ------
    InvalidInput : the file is not Parquet
    """
    if kind is not FileFormat.PARQUET:
        return None
    try:
        rows: int = pl.scan_parquet(path, glob=False).select(pl.len()).collect().item()
    except PARQUET_ERRORS as error:
        raise InvalidInput(f"{path}: cannot be read as Parquet: {error}") from error
    return rows


def read_records(path: Path, kind: FileFormat, columns: Sequence[str], skip: int = 0) -> Iterator[Record]:
    """Records of a file in order, broken ones included.

    Parameters
    ----------
    columns : columns that are needed; missing ones are ignored
    skip : number of leading records to skip, broken ones included

    Raises
    ------
    InvalidInput : the rest of the file cannot be read: it is truncated, or not Parquet
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
    """RFC 4180 with a header line; blank lines are skipped."""
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
    """One JSON object per line; blank lines are skipped."""
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
    """Parse a JSON value; accepts NaN and Infinity, which Python and pandas write; field checks handle them."""
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return json.loads(content.decode("utf-8"))


def _open(path: Path) -> IO[bytes]:
    """Open a file, decompressed if gzipped; gzip is detected by its magic bytes, not by the name."""
    with path.open("rb") as file:
        packed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    return cast(IO[bytes], gzip.open(path, "rb")) if packed else path.open("rb")


def _text(raw: IO[bytes]) -> io.TextIOWrapper:
    """Decode a file; bytes that are not UTF-8 become lone surrogates, which field checks detect."""
    return io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="")
