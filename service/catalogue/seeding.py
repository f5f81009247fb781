"""Fills a catalogue store with the bundle's own catalogue.

Apart from opening a store, since who only looks at one needs no data frames. Knows nothing of the live view, of HTTP or
of ONNX.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from service.bundle.files import Bundle
from service.catalogue.opening import open_bundle_store
from service.catalogue.records import ItemKey, Outcome, StoredItem
from service.catalogue.store import CatalogueStore
from service.errors import BundleError, ConfigError, InvalidInput
from service.id_columns import from_lists
from service.parquet import PARQUET_ERRORS
from service.progress import progress
from service.semantic_ids import TokenLayout

UNREADABLE: tuple[type[BaseException], ...] = (*PARQUET_ERRORS, InvalidInput, ValueError)
"""What a catalogue that is not as it must be may raise while it is read."""

SEED_ROWS = 1000
COMPARED_ROWS = 1000
SEED_CHECKPOINT = "seeded rows"


def open_catalogue(url: str, bundle: Bundle, *, serving: bool = False) -> CatalogueStore:
    """`open_store` for a bundle, complete with the bundle's own items; resumes where an interrupted start left off.

    Raises
    ------
    ConfigError : as `open_store`, and where the store holds the IDs of another tokenizer
    """
    store = open_bundle_store(url, bundle, serving=serving)
    try:
        if store.seeded():
            _require_same_ids(bundle, store)
        else:
            seed_from(bundle, store)
    except BaseException:
        store.close()
        raise
    return store


def seed_from(bundle: Bundle, store: CatalogueStore) -> None:
    """Bring the bundle's catalogue into a store and open it for registrations.

    Raises
    ------
    BundleError : the catalogue repeats an item or an ID, or is not of the shape that the manifest says
    """
    frame = read_bundle_catalogue(bundle, store.layout)
    # Rows of this very file: another export may have other items before them.
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
    """Add what a bundle's catalogue has besides the items put back; returns how many could not be added.

    An export of the bundle after they were published may have other IDs for some, or have given theirs to items of its
    own. What was published stays, and the latter items are not added. Opens the store for registrations.

    Raises
    ------
    BundleError : as `seed_from`
    """
    left_out = 0
    # Within a group IDs must rise.
    for batch in read_bundle_catalogue(bundle, store.layout).sort("packed").iter_slices(SEED_ROWS):
        outcomes = store.restore([StoredItem(*row) for row in batch.iter_rows()])
        left_out += outcomes.count(Outcome.ID_GIVEN)
    store.finish_seed()
    return left_out


def _require_same_ids(bundle: Bundle, store: CatalogueStore) -> None:
    """Refuse a store whose items have other codes than in the bundle: its recommender would take one for another.

    Single items may differ, as those do that were registered with another content before.
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
    rows : the first so many; all if left out

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
