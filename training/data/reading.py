"""Reads the files of a domain, in any format, into its two raw tables.

Knows nothing of checks across rows, k-cores or order.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from service.parquet import PARQUET_ERRORS
from training.data.amazon import EDITIONS, renaming
from training.data.config import DomainConfig, Format, InteractionColumns, ItemColumns
from training.data.lines import OnBytes
from training.data.records import csv_records, has_columns, json_records, take_records
from training.data.report import Findings, Kind, Problem
from training.data.tables import INTERACTION_TYPES, ITEM_TYPES, Collector, Fields, RawTable
from training.data.values import (
    MILLISECONDS,
    Converter,
    as_categories,
    as_id,
    as_listed_price,
    as_milliseconds,
    as_number,
    as_price,
    as_text,
)

_REQUIRED_OF_ITEMS = ("item_id",)
_REQUIRED_OF_INTERACTIONS = ("user_id", "item_id")


def read_items(domain: DomainConfig, findings: Findings, on_bytes: OnBytes) -> RawTable:
    """Read the item files of a domain."""
    edition = EDITIONS.get(domain.format)
    converters: dict[str, Converter] = {
        "item_id": as_id,
        **dict.fromkeys(("title", "brand", "description"), as_text),
        "categories": as_categories(None if edition else domain.category_separator),
        "price": as_listed_price if edition else as_price,
    }
    names = edition.items if edition else domain.map.items.model_dump()
    expected = _expected(names, _REQUIRED_OF_ITEMS, None if edition else domain.map.items)
    collector = Collector(Fields(ITEM_TYPES, names, converters, expected), findings)
    for path in domain.items:
        _read_file(path, domain.format, collector, on_bytes, edition.features if edition else None)
    return collector.table()


def read_interactions(domain: DomainConfig, findings: Findings, on_bytes: OnBytes) -> RawTable:
    """Read the interaction files of a domain; timestamps become milliseconds."""
    edition = EDITIONS.get(domain.format)
    unit = edition.timestamp_unit if edition else domain.timestamp_unit
    converters: dict[str, Converter] = {
        "user_id": as_id,
        "item_id": as_id,
        "position": as_number,
        "timestamp": as_milliseconds(unit),
        "rating": as_number,
    }
    names = edition.reviews if edition else domain.map.interactions.model_dump()
    required = (*_REQUIRED_OF_INTERACTIONS, "timestamp") if edition else _REQUIRED_OF_INTERACTIONS
    expected = _expected(names, required, None if edition else domain.map.interactions)
    milliseconds = MILLISECONDS[unit]
    collector = Collector(Fields(INTERACTION_TYPES, names, converters, expected, milliseconds), findings)
    for path in domain.interactions:
        _read_file(path, domain.format, collector, on_bytes, None)
    return collector.table()


def _expected(
    names: dict[str, str], required: tuple[str, ...], chosen: ItemColumns | InteractionColumns | None
) -> frozenset[str]:
    """Names that every file must have: the required fields, and those that the configuration maps explicitly."""
    return frozenset(names[name] for name in {*required, *(chosen.model_fields_set if chosen else ())})


def _read_file(path: Path, kind: Format, collector: Collector, on_bytes: OnBytes, features: str | None) -> None:
    collector.start_file(str(path))
    if kind is Format.PARQUET:
        _read_parquet(path, collector)
        on_bytes(path.stat().st_size)
        return
    names = dict(collector.fields.names)
    if kind is Format.CSV:
        records = csv_records(path, collector, on_bytes)
    else:
        edition = EDITIONS.get(kind)
        records = json_records(path, collector, on_bytes, edition is not None and edition.literals)
    take_records(records, renaming(names, features), collector)


def _read_parquet(path: Path, collector: Collector) -> None:
    """Read a Parquet file: by columns if all types can be cast, else row by row through the converters."""
    try:
        columns = list(pl.scan_parquet(path, glob=False).collect_schema())
        if not has_columns(columns, collector):
            return
        wanted = {name: source for name, source in collector.fields.names.items() if source in columns}
        frame = pl.read_parquet(path, columns=list(dict.fromkeys(wanted.values())), glob=False)
    except PARQUET_ERRORS as error:
        broken = "UTF-8" in str(error)
        reason = f"cannot be read as Parquet: {error}"
        problem = Problem(Kind.BROKEN_ENCODING if broken else Kind.MALFORMED_LINE, str(path), None, None, reason)
        collector.findings.add(problem)
        return
    ours = frame.select(pl.col(source).alias(name) for name, source in wanted.items())
    fields = collector.fields
    if all(_is_plain(found, fields.types[name]) for name, found in ours.schema.items()):
        collector.take_frame(
            ours.select(
                _plain(name, ours.schema, dtype, fields.milliseconds).alias(name)
                for name, dtype in fields.types.items()
            )
        )
    else:
        for row, record in enumerate(ours.iter_rows(named=True), start=1):
            collector.take(row, record)


def _is_plain(found: pl.DataType, wanted: pl.DataType) -> bool:
    """Whether a column can be cast without looking at its values."""
    if found in (pl.Null, wanted):
        return True
    if wanted == pl.String:
        return found.is_integer()
    return wanted.is_numeric() and (found.is_numeric() or found in (pl.Datetime, pl.Date))


def _plain(name: str, found: pl.Schema, wanted: pl.DataType, milliseconds: float) -> pl.Expr:
    """A column in our type, null if the file does not have it; timestamps in milliseconds."""
    if name not in found:
        return pl.lit(None, wanted)
    if found[name] in (pl.Datetime, pl.Date):
        return pl.col(name).dt.epoch("us").cast(wanted) / 1000
    column = pl.col(name).cast(wanted)
    if wanted == pl.List:
        return column.list.drop_nulls()
    return column * milliseconds if name == "timestamp" else column
