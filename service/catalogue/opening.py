"""Opens a catalogue store from its URL. Knows the kinds of stores; independent of their contents."""

from __future__ import annotations

from pathlib import Path

from service.bundle.files import Bundle
from service.catalogue import embedded_reading, redis_reading
from service.catalogue.embedded import EmbeddedStore
from service.catalogue.records import Generation
from service.catalogue.redis_clients import FORMS, SCHEMES
from service.catalogue.redis_store import RedisStore
from service.catalogue.store import CatalogueStore
from service.errors import ConfigError, UnknownGeneration
from service.semantic_ids import TokenLayout


def open_store(
    url: str, bundle: str, generation: int, layout: TokenLayout, *, serving: bool = False, looking: bool = False
) -> CatalogueStore:
    """Open one ID generation of one bundle in the store that a URL names.

    Parameters
    ----------
    url : `embedded:FOLDER` (or `file:FOLDER`), or one of the forms of `service/catalogue/redis_clients.py`
    bundle, generation, layout : from the bundle's manifest
    serving : use a short time-out for the server, since requests wait
    looking : open an embedded store in a folder that is not writable read-only

    Raises
    ------
    ConfigError : no such kind of store, or it holds IDs of another layout
    StoreUnavailable : it does not answer
    """
    folder = _folder(url)
    if folder is not None:
        return EmbeddedStore(folder, bundle, generation, layout, looking=looking)
    return RedisStore(url, bundle, generation, layout, serving=serving)


def stored_generations(url: str) -> list[Generation]:
    """All generations of all bundles in the store that a URL names, sorted by name.

    Raises
    ------
    ConfigError : no such kind of store
    StoreUnavailable : it does not answer
    """
    folder = _folder(url)
    return list(redis_reading.generations(url) if folder is None else embedded_reading.generations(folder))


def _folder(url: str) -> Path | None:
    """Folder of an embedded store, None for Redis."""
    scheme, colon, rest = url.partition(":")
    if scheme in ("embedded", "file") and rest:
        return Path(rest.removeprefix("//"))
    if scheme in SCHEMES:
        return None
    shown = scheme + colon if colon else "without a scheme"
    raise ConfigError(f"store URL {shown}...: must be embedded:FOLDER, {FORMS}")


def open_bundle_store(url: str, bundle: Bundle, *, serving: bool = False, looking: bool = False) -> CatalogueStore:
    """`open_store` for a bundle; the store may be incomplete."""
    manifest = bundle.manifest
    layout = manifest.token_layout(manifest.recommenders[0])
    return open_store(url, manifest.name, manifest.generation, layout, serving=serving, looking=looking)


def open_existing_store(url: str, bundle: Bundle) -> CatalogueStore:
    """`open_bundle_store` for read-only use: does not create a store if the URL is mistyped.

    Raises
    ------
    UnknownGeneration : the store does not hold the bundle's generation; the message lists what it holds
    """
    wanted, folder = f"{bundle.manifest.name}:{bundle.manifest.generation}", _folder(url)
    there = [f"{each.bundle}:{each.number}" for each in stored_generations(url)]
    if wanted not in there:
        where = "the store" if folder is None else f"the embedded store {folder.absolute()}"
        raise UnknownGeneration(
            f"{where} holds no catalogue of {wanted}, but {', '.join(there) or 'nothing'}; give the --store and the "
            "--bundle of one that was filled, as `unitok catalogue status` shows it"
        )
    return open_bundle_store(url, bundle, looking=True)
