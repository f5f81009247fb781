"""Opens the parts a service works with: the bundle's engine and its live catalogue, according to the settings.

All faults of a bundle, a provider or a store are reported here, before anything is served. Knows nothing of HTTP.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from service.bundle.files import Bundle
from service.catalogue.current import current_of, stores_of, turn
from service.catalogue.live import LiveCatalogue
from service.catalogue.seeding import open_catalogue
from service.engine.engine import Engine
from service.errors import ConfigError, StoreUnavailable
from service.logs import get_logger
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Opened:
    """An engine and the live catalogue of its bundle."""

    engine: Engine
    catalogue: LiveCatalogue


@contextmanager
def opened(settings: Settings) -> Iterator[Opened]:
    """Open bundle and store, seed the store from the bundle if needed, load the catalogue; at the end save and close.

    Raises
    ------
    BundleError : the bundle is damaged
    ProviderUnavailable : the requested provider is not installed
    ConfigError, StoreUnavailable : the store's URL or the index folder is wrong, or the store does not answer
    """
    bundle = Bundle.open(settings.bundle)
    engine = Engine.open(bundle, settings.provider, settings.threads, settings.spin_microseconds)
    store = open_catalogue(settings.store.get_secret_value(), bundle, serving=True)
    try:
        catalogue = LiveCatalogue(store, _index_folder(settings, bundle))
        if catalogue.rebuilt is not None:
            get_logger("unitok.opening").warning("index built anew from the store", reason=catalogue.rebuilt)
        yield Opened(engine, catalogue)
        try:
            catalogue.save()
        except ConfigError as error:
            # No data is lost, since every change is in the store; the next start reports the fault again.
            get_logger("unitok.opening").warning("index could not be saved", reason=str(error))
    finally:
        store.close()


def warn_unless_current(settings: Settings, served: Sequence[Opened]) -> None:
    """Log a warning if the store's current generation is not served here; other replicas may serve it.

    Nothing is logged if the stores cannot be read.
    """
    numbers = [part.engine.bundle.manifest.generation for part in served]
    name = served[0].engine.bundle.manifest.name
    with (
        suppress(ConfigError, StoreUnavailable),
        stores_of(settings.store.get_secret_value(), name, serving=True) as stores,
    ):
        current = current_of({number: turn(store) for number, store in stores.items()})
        if current is not None and current not in numbers:
            get_logger("unitok.opening").warning(
                "another generation of the bundle is current in the store", bundle=name, current=current, served=numbers
            )


def _index_folder(settings: Settings, bundle: Bundle) -> Path | None:
    """Folder of the saved index of this bundle's generation; each generation has its own."""
    if settings.index_folder is None:
        return None
    return settings.index_folder / f"{bundle.manifest.name}-{bundle.manifest.generation}"
