"""Opens a catalogue store from its URL and fills it with the bundle's own catalogue.

Knows which stores there are; knows nothing of the live view, of HTTP or of ONNX.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from service.bundle.files import Bundle
from service.catalogue import embedded, redis_store
from service.catalogue.embedded import EmbeddedStore
from service.catalogue.redis_clients import FORMS, SCHEMES
from service.catalogue.redis_store import RedisStore
from service.catalogue.store import CatalogueStore, Generation, StoredItem
from service.errors import BundleError, ConfigError, InvalidInput
from service.id_columns import from_lists
from service.parquet import PARQUET_ERRORS
from service.progress import progress
from service.semantic_ids import TokenLayout

UNREADABLE: tuple[type[BaseException], ...] = (*PARQUET_ERRORS, InvalidInput, ValueError)
"""What a catalogue that is not as it must be may raise while it is read."""

SEED_ROWS = 1000
SEED_CHECKPOINT = "seeded rows"


def open_store(url: str, bundle: str, generation: int, layout: TokenLayout, *, serving: bool = False) -> CatalogueStore:
    """Open one ID generation of one bundle in the store that a URL names.

    Parameters
    ----------
    url : `embedded:FOLDER` (or `file:FOLDER`), or one of the forms of `service/catalogue/redis_clients.py`
    bundle, generation, layout : from the bundle's manifest
    serving : a server that does not answer is given up early, since requests wait

    Raises
    ------
    ConfigError : no such kind of store, or it holds IDs of another layout
    StoreUnavailable : it does not answer
    """
    folder = _folder(url)
    if folder is not None:
        return EmbeddedStore(folder, bundle, generation, layout)
    return RedisStore(url, bundle, generation, layout, serving=serving)


def stored_generations(url: str) -> list[Generation]:
    """Every generation of every bundle that a URL's place holds, by name.

    Raises
    ------
    ConfigError : no such kind of store
    StoreUnavailable : it does not answer
    """
    folder = _folder(url)
    return list(redis_store.generations(url) if folder is None else embedded.generations(folder))


def _folder(url: str) -> Path | None:
    """Folder of an embedded store, None for Redis."""
    scheme, colon, rest = url.partition(":")
    if scheme in ("embedded", "file") and rest:
        return Path(rest.removeprefix("//"))
    if scheme in SCHEMES:
        return None
    shown = scheme + colon if colon else "without a scheme"
    raise ConfigError(f"store URL {shown}...: must be embedded:FOLDER, {FORMS}")


def open_bundle_store(url: str, bundle: Bundle, *, serving: bool = False) -> CatalogueStore:
    """`open_store` for a bundle, as it is, complete or not."""
    manifest = bundle.manifest
    layout = manifest.token_layout(manifest.recommenders[0])
    return open_store(url, manifest.name, manifest.generation, layout, serving=serving)


def open_catalogue(url: str, bundle: Bundle, *, serving: bool = False) -> CatalogueStore:
    """`open_store` for a bundle, complete with the bundle's own items; resumes where an interrupted start left off."""
    store = open_bundle_store(url, bundle, serving=serving)
    if not store.seeded():
        seed_from(bundle, store)
    return store


def seed_from(bundle: Bundle, store: CatalogueStore) -> None:
    """Bring the bundle's catalogue into a store and open it for registrations.

    Raises
    ------
    BundleError : the catalogue repeats an item or an ID, or is not of the shape that the manifest says
    """
    frame = read_bundle_catalogue(bundle, store.layout)
    done = int(store.checkpoint(SEED_CHECKPOINT) or 0)
    with progress("catalogue", len(frame)) as advance:
        advance(min(done, len(frame)))
        for batch in frame[done:].iter_slices(SEED_ROWS):
            store.seed([StoredItem(*row) for row in batch.iter_rows()])
            done += len(batch)
            store.save_checkpoint(SEED_CHECKPOINT, str(done))
            advance(len(batch))
    store.finish_seed()


def read_bundle_catalogue(bundle: Bundle, layout: TokenLayout) -> pl.DataFrame:
    """The bundle's own items: columns domain, item_id, packed (the semantic ID as a number) and title.

    Raises
    ------
    BundleError : a column is missing or of another type, an ID is out of range, an item or an ID appears twice
    """
    path = bundle.path(bundle.manifest.catalogue.path)
    parts = {"codes": layout.levels, "experts": layout.experts_per_item}
    try:
        frame = pl.read_parquet(path, columns=["domain", "item_id", "title", "codes", "experts", "suffix"])
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
    if len(frame) != bundle.manifest.catalogue.items:
        raise BundleError(f"{path}: {len(frame)} items, but the manifest says {bundle.manifest.catalogue.items}")
    for column, what in (("item_id", "item"), ("packed", "semantic ID")):
        repeated = frame.filter(pl.struct("domain", column).is_duplicated())
        if len(repeated):
            first = repeated.row(0, named=True)
            raise BundleError(
                f"{path}: the {what} of item {first['item_id']!r}, domain {first['domain']!r}, appears more than once"
            )
    return frame
