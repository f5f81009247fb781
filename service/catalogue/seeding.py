"""Fills a catalogue store with the bundle's own catalogue.

Separate from `opening.py`, since read-only use of a store needs no data frames. Independent of the live view, HTTP
and ONNX.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from service.bundle.files import Bundle
from service.catalogue.opening import open_bundle_store
from service.catalogue.records import ItemKey, Outcome, StoredItem
from service.catalogue.store import CatalogueStore
from service.catalogue.transfer import IMPORT_CHECKPOINT
from service.errors import BundleError, ConfigError, GenerationIncomplete, InvalidInput
from service.id_columns import from_lists
from service.parquet import PARQUET_ERRORS
from service.progress import progress
from service.semantic_ids import TokenLayout

UNREADABLE: tuple[type[BaseException], ...] = (*PARQUET_ERRORS, InvalidInput, ValueError)
"""Errors that reading a malformed catalogue may raise."""

SEED_ROWS = 1000
COMPARED_ROWS = 1000
SEED_CHECKPOINT = "seeded rows"


def open_catalogue(url: str, bundle: Bundle, *, serving: bool = False) -> CatalogueStore:
    """`open_store` for a bundle, filled with the bundle's own items; resumes an interrupted seeding.

    Raises
    ------
    ConfigError : as `open_store`, and if the store holds the IDs of another tokenizer
    GenerationIncomplete : an import into the store has begun and is not complete
    """
    store = open_bundle_store(url, bundle, serving=serving)
    try:
        if store.seeded():
            _require_same_ids(bundle, store)
        else:
            _require_no_import(store)
            seed_from(bundle, store)
    except BaseException:
        store.close()
        raise
    return store


def seed_from(bundle: Bundle, store: CatalogueStore) -> None:
    """Seed a store with the bundle's catalogue and enable registrations.

    Raises
    ------
    BundleError : the catalogue repeats an item or an ID, or does not have the shape given in the manifest
    """
    frame = read_bundle_catalogue(bundle, store.layout)
    # Keyed by the file's hash: another export may have other items before these rows.
    checkpoint = f"{SEED_CHECKPOINT} of {bundle.manifest.files[bundle.manifest.catalogue.path]}"
    done = int(store.checkpoint(checkpoint) or 0)
    with progress("catalogue", len(frame)) as advance:
        advance(min(done, len(frame)))
        for batch in frame[done:].iter_slices(SEED_ROWS):
            store.seed([StoredItem(*row) for row in batch.iter_rows()])
            done += len(batch)
            store.save_checkpoint(checkpoint, str(done))
            advance(len(batch))
    store.finish_seed()


def complete_from(bundle: Bundle, store: CatalogueStore) -> int:
    """Add the bundle's items that a restored store lacks; returns how many could not be added.

    A later export of the bundle may have other IDs for some restored items, or assign their IDs to other items.
    Published IDs stay, and those other items are not added. Enables registrations.

    Raises
    ------
    BundleError : as `seed_from`
    """
    left_out = 0
    # `restore` needs ascending IDs within a group.
    for batch in read_bundle_catalogue(bundle, store.layout).sort("packed").iter_slices(SEED_ROWS):
        outcomes = store.restore([StoredItem(*row) for row in batch.iter_rows()])
        left_out += outcomes.count(Outcome.ID_GIVEN)
    store.finish_seed()
    return left_out


def _require_no_import(store: CatalogueStore) -> None:
    """Refuse a store that an import fills, or began to fill: what is missing is in its file."""
    file = store.checkpoint(IMPORT_CHECKPOINT)
    if file is not None:
        status = store.status()
        raise GenerationIncomplete(
            f"{status.where}: an import of {file} into {status.generation} has begun and is not complete; wait for its "
            f"end, or if it broke off, repeat `unitok catalogue import {file}`, which adds the rows that are missing"
        )


def _require_same_ids(bundle: Bundle, store: CatalogueStore) -> None:
    """Refuse a store whose items have other codes than the bundle: the recommender would confuse items.

    Single items may differ, namely those that were registered with another content before.
    """
    rows = read_bundle_catalogue(bundle, store.layout, COMPARED_ROWS)
    found = store.get([ItemKey(domain, item_id) for domain, item_id in rows.select("domain", "item_id").iter_rows()])
    there = np.array([item is not None for item in found], dtype=np.bool_)
    stored = np.array([item.packed for item in found if item is not None], dtype=np.uint64)
    mine = rows["packed"].to_numpy()[there]
    other = (store.layout.unpack(stored)[:, :-1] != store.layout.unpack(mine)[:, :-1]).any(axis=1)
    if other.sum() > len(other) / 2:
        status = store.status()
        raise ConfigError(
            f"{status.where} holds other semantic IDs of {status.generation} than the bundle, for {other.sum()} of "
            f"{len(other)} items that were compared: a tokenizer that was trained anew needs a new generation "
            "(unitok export --generation)"
        )


def read_bundle_catalogue(bundle: Bundle, layout: TokenLayout, rows: int | None = None) -> pl.DataFrame:
    """The bundle's own items: columns domain, item_id, packed (the semantic ID as a number) and title.

    Parameters
    ----------
    rows : read only this many rows; None reads all

    Raises
    ------
    BundleError : a column is missing or of another type, an ID is out of range, an item or an ID appears twice
    """
    path = bundle.path(bundle.manifest.catalogue.path)
    parts = {"codes": layout.levels, "experts": layout.experts_per_item}
    try:
        columns = ["domain", "item_id", "title", "codes", "experts", "suffix"]
        frame = pl.read_parquet(path, columns=columns, n_rows=rows, glob=False)
        for column in ("domain", "item_id", "codes", "experts", "suffix"):
            if frame[column].has_nulls():
                raise BundleError(f"{path}: column {column!r} is null in row {frame[column].is_null().arg_max()}")
        codes, experts = (from_lists(frame[name], width) for name, width in parts.items())
        packed = layout.pack(layout.join(codes, experts, frame["suffix"].cast(pl.Int32).to_numpy()))
        frame = frame.select(
            pl.col("domain", "item_id").cast(pl.String),
            pl.Series("packed", packed, dtype=pl.UInt64),
            pl.col("title").cast(pl.String),
        )
    except UNREADABLE as error:
        raise BundleError(f"{path}: {error}") from error
    if rows is None and len(frame) != bundle.manifest.catalogue.items:
        raise BundleError(f"{path}: {len(frame)} items, but the manifest says {bundle.manifest.catalogue.items}")
    for column, what in (("item_id", "item"), ("packed", "semantic ID")):
        repeated = frame.filter(pl.struct("domain", column).is_duplicated())
        if len(repeated):
            first = repeated.row(0, named=True)
            raise BundleError(
                f"{path}: the {what} of item {first['item_id']!r}, domain {first['domain']!r}, appears more than once"
            )
    return frame
