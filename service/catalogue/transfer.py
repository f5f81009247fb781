"""Exports a catalogue to a Parquet file and imports it: all items with their published IDs, deleted ones included.

Independent of the kind of store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from service.catalogue.content import is_content
from service.catalogue.records import Outcome, StoredItem
from service.catalogue.store import CatalogueStore
from service.catalogue.store_rules import MAX_NAME_BYTES
from service.durable import put_in_place, working_folder
from service.errors import ConfigError, GenerationIncomplete, InvalidInput, StoreUnavailable
from service.id_columns import BadList, from_lists, to_lists
from service.parquet import PARQUET_ERRORS
from service.semantic_ids import TokenLayout

PART_ROWS = 200_000
"""Items per temporary file."""

BATCH = 1000
"""Items restored in one step."""

IMPORT_CHECKPOINT = "import"
"""Holds the name of the file whose import into an incomplete store has begun."""

Advance = Callable[[int], None]

SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "bundle": pl.String,
    "generation": pl.Int64,
    "domain": pl.String,
    "item_id": pl.String,
    "title": pl.String,
    "content": pl.String,
    "codes": pl.List(pl.Int32),
    "experts": pl.List(pl.Int32),
    "suffix": pl.Int32,
    "live": pl.Boolean,
}

NULLABLE = ("title", "content")

CONFLICTS = {
    Outcome.OTHER_ID: ("item_id", "the store has this item under another semantic ID"),
    Outcome.ID_GIVEN: ("suffix", "the store has given this semantic ID away, and not to this item"),
}
"""For a row that cannot be restored: the field, and the reason."""


@dataclass(frozen=True, slots=True)
class Source:
    """Bundle and generation of the IDs in a file."""

    bundle: str
    generation: int


@dataclass(frozen=True, slots=True)
class Imported:
    """Result of an import."""

    rows: int
    added: int
    already_there: int


def export_catalogue(store: CatalogueStore, source: Source, path: Path, advance: Advance = lambda items: None) -> int:
    """Write every item to a Parquet file, sorted by domain and ID; returns how many.

    The file appears only when it is complete and synced. Concurrent changes may be included or not.

    Raises
    ------
    GenerationIncomplete : the store is not completely filled; `path` is unchanged
    StoreUnavailable : the store does not answer, or was emptied meanwhile; `path` is unchanged
    ConfigError : `path` cannot be written; it is unchanged
    """
    if not store.seeded():
        said = store.status()
        raise GenerationIncomplete(
            f"{said.where}: the catalogue of {said.generation} is not complete, so {path} is left as it was; export "
            "from a store that was filled, or let `unitok serve`, or an import that broke off, fill this one first"
        )
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; name the file to write")
    try:
        return _write(store, source, path, advance)
    except PARQUET_ERRORS as error:
        # Names the target path: the error is about a temporary file, which no longer exists.
        raise ConfigError(f"{path}: cannot be written, and is left as it was: {error}") from error


def import_catalogue(
    store: CatalogueStore, source: Source, path: Path, advance: Advance = lambda items: None
) -> Imported:
    """Import an exported file into a store; idempotent.

    Every row is checked against the store before the first is stored. Items that the store has, live or deleted, stay
    unchanged.

    Raises
    ------
    InvalidInput : the file is not an export of this generation, or a row contradicts another or the store; the message
        names row and field
    StoreUnavailable : the store does not answer; some rows may have been stored; the import can be repeated
    """
    frame = _read(path, store.layout, source)
    for dry in (True, False):
        if not dry and not store.seeded():
            # Were the rest of the file filled in from the bundle, an item that the file holds as deleted would be back.
            store.save_checkpoint(IMPORT_CHECKPOINT, path.name)
        outcomes = dict.fromkeys(Outcome, 0)
        for batch in frame.iter_slices(BATCH):
            items = [StoredItem(**row) for row in batch.drop("row").iter_rows(named=True)]
            for row, item, outcome in zip(batch["row"], items, store.restore(items, dry), strict=True):
                if outcome in CONFLICTS:
                    field, why = CONFLICTS[outcome]
                    raise _wrong(path, row, field, f"{why} ({item.item_id!r}, domain {item.domain!r})")
                outcomes[outcome] += 1
            if not dry:
                advance(len(batch))
    return Imported(len(frame), outcomes[Outcome.ADDED], outcomes[Outcome.THERE])


def _write(store: CatalogueStore, source: Source, path: Path, advance: Advance) -> int:
    head = store.head()
    path.parent.mkdir(parents=True, exist_ok=True)
    with working_folder(path) as folder:
        rows, parts = 0, []
        for number, items in enumerate(_parts(store)):
            parts.append(folder / f"part-{number:06}.parquet")
            _frame(items, store.layout, source).write_parquet(parts[-1])
            rows += len(items)
            advance(len(items))
        whole = folder / "whole.parquet"
        if parts:
            found = pl.scan_parquet(parts, glob=False)
            found.sort("domain", "codes", "experts", "suffix").sink_parquet(whole)
        else:
            pl.DataFrame(schema=SCHEMA).write_parquet(whole)
        if store.changes(head, 1).lost:
            raise StoreUnavailable(f"the store was emptied while it was read; {path} is left as it was")
        put_in_place(whole, path)
    return rows


def _parts(store: CatalogueStore) -> Iterator[list[StoredItem]]:
    """The items in parts of about `PART_ROWS`."""
    part: list[StoredItem] = []
    for batch in store.rows():
        part += batch
        if len(part) >= PART_ROWS:
            yield part
            part = []
    if part:
        yield part


def _frame(items: list[StoredItem], layout: TokenLayout, source: Source) -> pl.DataFrame:
    values = layout.unpack(np.array([item.packed for item in items], dtype=np.uint64))
    return pl.DataFrame(
        {
            "bundle": [source.bundle] * len(items),
            "generation": [source.generation] * len(items),
            "domain": [item.domain for item in items],
            "item_id": [item.item_id for item in items],
            "title": [item.title for item in items],
            "content": [item.content for item in items],
            "codes": to_lists(values[:, : layout.levels]),
            "experts": to_lists(values[:, layout.levels : -1]),
            "suffix": values[:, -1],
            "live": [item.live for item in items],
        },
        schema=SCHEMA,
    )


def _read(path: Path, layout: TokenLayout, source: Source) -> pl.DataFrame:
    """Columns row, domain, item_id, packed, title, content, live; sorted by ID, as `restore` needs it."""
    try:
        frame = pl.read_parquet(path, glob=False)
    except PARQUET_ERRORS as error:
        raise InvalidInput(f"{path}: cannot be read as Parquet: {error}") from None
    for column, kind in SCHEMA.items():
        if column not in frame.columns or frame.schema[column] != kind:
            found = frame.schema.get(column, "missing")
            raise InvalidInput(f"{path}: column {column!r} is {found}, but an exported catalogue has {kind}")
        if column not in NULLABLE and frame[column].has_nulls():
            raise _wrong(path, frame[column].is_null().arg_max() or 0, column, "is null")
    for column, expected in (("bundle", source.bundle), ("generation", source.generation)):
        others = frame[column] != expected
        if others.any():
            row = others.arg_max() or 0
            raise _wrong(path, row, column, f"is {frame[column][row]!r}, but the store's is {expected!r}")
    for column in ("domain", "item_id"):
        sizes = frame[column].str.len_bytes()
        wrong = (sizes < 1) | (sizes > MAX_NAME_BYTES)
        if wrong.any():
            raise _wrong(path, wrong.arg_max() or 0, column, f"must have 1 to {MAX_NAME_BYTES} bytes")
    for row, content in enumerate(frame["content"]):
        if content is not None and not is_content(content):
            raise _wrong(path, row, "content", "is no JSON object of an item's fields")
    frame = frame.with_row_index("row").with_columns(_packed(path, frame, layout))
    for column, field in (("item_id", "item_id"), ("packed", "suffix")):
        repeated = pl.struct("domain", column)
        later = frame.filter(repeated.is_duplicated() & ~repeated.is_first_distinct())
        if len(later):
            raise _wrong(path, int(later["row"][0]), field, "repeats that of a row before")
    return frame.select("row", "domain", "item_id", "packed", "title", "content", "live").sort("packed")


def _packed(path: Path, frame: pl.DataFrame, layout: TokenLayout) -> pl.Series:
    parts = {"codes": layout.levels, "experts": layout.experts_per_item}
    columns = []
    for column, width in parts.items():
        try:
            columns.append(from_lists(frame[column], width))
        except BadList as error:
            raise _wrong(path, error.row, column, error.why) from None
    values = np.concatenate([*columns, frame["suffix"].to_numpy()[:, None]], axis=1)
    wrong = (values < 0) | (values >= np.asarray(layout.position_sizes))
    if wrong.any():
        row, position = (int(at[0]) for at in np.nonzero(wrong))
        names = ["codes"] * layout.levels + ["experts"] * layout.experts_per_item + ["suffix"]
        size = layout.position_sizes[position]
        raise _wrong(path, row, names[position], f"{values[row, position]} is not within 0..{size - 1}")
    return pl.Series("packed", layout.pack(values.astype(np.int32)), dtype=pl.UInt64)


def _wrong(path: Path, row: int, field: str, why: str) -> InvalidInput:
    return InvalidInput(f"{path}: row {row}, field {field}: {why}")
