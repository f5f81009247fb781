"""Reads JSON lines and CSV files as records: one dictionary per row; bad rows are rejected with a reason.

Knows nothing of which keys matter.
"""

from __future__ import annotations

import ast
import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson

from service.errors import shown
from training.data.lines import Line, OnBytes, broken_byte, read_lines
from training.data.report import Kind, Problem
from training.data.tables import Collector

Record = tuple[int, dict[str, object]]
"""Line number and content."""


def json_records(path: Path, collector: Collector, on_bytes: OnBytes, literals: bool = False) -> Iterator[Record]:
    """Records of a file with one JSON object per line; blank lines are skipped.

    Parameters
    ----------
    literals : also accept lines that are Python literals, like those of the published 2014 Amazon metadata
    """
    for line in read_lines(path, collector.findings, on_bytes):
        if not line.content.strip():
            continue
        try:
            value: object = orjson.loads(line.content)
        except orjson.JSONDecodeError:
            reason = broken_byte(line)
            if reason is not None:
                collector.reject(Kind.BROKEN_ENCODING, line.number, reason)
                continue
            try:
                value = _parse_leniently(line.content.decode("utf-8"), literals)
            except ValueError as error:
                collector.reject(Kind.MALFORMED_LINE, line.number, f"{error}; one JSON object a line is expected")
                continue
        if isinstance(value, dict):
            yield line.number, value
        else:
            reason = f"{shown(value)} is of type {type(value).__name__}; one JSON object a line is expected"
            collector.reject(Kind.MALFORMED_LINE, line.number, reason)


def _parse_leniently(text: str, literals: bool) -> object:
    """Parse JSON with the extensions of Python's own writer (NaN, Infinity), else, if allowed, a Python literal.

    Raises
    ------
    ValueError : it is neither
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = f"not JSON: {error}"
    if literals:
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
            reason = f"neither JSON nor a Python literal: {error}"
    raise ValueError(reason)


def csv_records(path: Path, collector: Collector, on_bytes: OnBytes) -> Iterator[Record]:
    """Records of a CSV file with a header line and RFC 4180 quoting; a row's number is that of its first line.

    A file whose header lacks an expected column is reported and gives no records.
    """
    numbered = _DecodedLines(read_lines(path, collector.findings, on_bytes))
    reader = csv.reader(numbered, strict=True)
    header: list[str] | None = None
    while True:
        first = numbered.number + 1
        numbered.broken = None
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            reason = f"{error}; a quote inside quotes is written twice in CSV"
            if numbered.number > first:
                reason += f"; lines {first} to {numbered.number} were read as one record and are dropped"
            collector.reject(Kind.MALFORMED_LINE, first, reason)
            continue
        if numbered.broken is not None:
            collector.reject(Kind.BROKEN_ENCODING, first, numbered.broken)
        elif not row:
            continue
        elif header is None:
            header = row
            if not has_columns(header, collector):
                return
        elif len(row) != len(header):
            reason = f"{len(row)} fields, but the header has {len(header)}"
            collector.reject(Kind.MALFORMED_LINE, first, reason)
        else:
            yield first, dict(zip(header, row, strict=True))
    if header is None:
        collector.findings.add(Problem(Kind.MALFORMED_LINE, str(path), 1, None, "no header line; the file is empty"))


class _DecodedLines:
    """Lines as text for the CSV reader, which takes as many as a row needs; tracks the position.

    Attributes
    ----------
    number : number of the last line returned
    broken : why a line returned since this was last reset to None is not UTF-8
    """

    def __init__(self, lines: Iterator[Line]) -> None:
        self._lines = lines
        self.number = 0
        self.broken: str | None = None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number = line.number
        self.broken = self.broken or broken_byte(line)
        return line.content.decode("utf-8", errors="replace") + "\n"


def has_columns(columns: list[str], collector: Collector) -> bool:
    """Whether a file has all expected columns, and no column that is read twice; reports what is wrong."""
    missing = sorted(collector.fields.expected - set(columns))
    for name in missing:
        reason = f"no such column; there are {', '.join(columns)}"
        collector.findings.add(Problem(Kind.MISSING_COLUMN, collector.files[-1], None, name, reason))
    twice = sorted(name for name in set(collector.fields.names.values()) if columns.count(name) > 1)
    for name in twice:
        reason = f"{columns.count(name)} columns have this name; which one is meant?"
        collector.findings.add(Problem(Kind.MALFORMED_LINE, collector.files[-1], None, name, reason))
    return not missing and not twice


Rename = Callable[[dict[str, object]], dict[str, object]]
"""Turns a record with the source's names into one with ours."""


def take_records(records: Iterator[Record], rename: Rename, collector: Collector) -> None:
    """Pass records to the collector, and report expected keys that no record of the file has."""
    missing = set(collector.fields.expected)
    row = 0
    for row, record in records:
        if missing:
            missing.difference_update(record)
        collector.take(row, rename(record))
    if row:
        for name in sorted(missing):
            reason = "no record of the file has this key"
            collector.findings.add(Problem(Kind.MISSING_COLUMN, collector.files[-1], None, name, reason))
