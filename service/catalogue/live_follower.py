"""The thread that keeps a live catalogue in step with what other replicas change. Knows nothing of what changes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.catalogue.live import LiveCatalogue
from service.errors import UnitokError

Report = Callable[[UnitokError], None]


@contextmanager
def following(live: LiveCatalogue, seconds: float, failed: Report) -> Iterator[None]:
    """Refresh the catalogue every so many seconds while the block runs.

    Parameters
    ----------
    live : the catalogue to refresh
    seconds : pause between two looks at the change log, which cost the store one small read each
    failed : told, on the follower's thread, when a look failed; the next one tries again from there
    """
    ended = threading.Event()

    def follow() -> None:
        while not ended.wait(seconds):
            try:
                live.refresh()
            except UnitokError as error:
                failed(error)

    thread = threading.Thread(target=follow, name="catalogue-follower", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
