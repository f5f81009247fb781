"""Catalogue changes, made for the event loop on a separate thread.

There is one thread, because the catalogue makes one change at a time anyway: more threads would only wait for each
other, and a slow store must not use up the threads that others need. When the store fails a change, those queued behind
it fail too, instead of each waiting for its own failure. A deletion also waits for running batches of searches that may
still find the item, but not on this thread.

Knows nothing of HTTP or of networks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import TypeVar

from service.catalogue.live import LiveCatalogue
from service.catalogue.records import ItemKey, NewItem, Registered
from service.errors import NotReady, StoreUnavailable
from service.metrics import Metrics
from service.overload.admission import Admission

Done = TypeVar("Done")

PROBE = "probe"
"""Checkpoint that a probe writes."""


class Writing:
    """Registers and deletes items of one live catalogue.

    Parameters
    ----------
    catalogue : the live catalogue
    admission : shared with the operations; used for deletions, since registrations are already admitted
    metrics : shared with the operations
    """

    def __init__(self, catalogue: LiveCatalogue, admission: Admission, metrics: Metrics) -> None:
        self._catalogue = catalogue
        self._admission = admission
        self._metrics = metrics
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="catalogue-writer")
        self._failed = float("-inf")
        self._refused = False

    @property
    def refused(self) -> bool:
        """Whether the store refused the latest change, or did not answer."""
        return self._refused

    def probe(self) -> None:
        """After a refusal, test with a small write whether the store accepts changes again."""
        if self._refused:
            try:
                self._catalogue.store.save_checkpoint(PROBE, "")
            except (StoreUnavailable, NotReady):
                return
            self._refused = False

    async def register(self, items: Sequence[NewItem]) -> Registered:
        """Store items; those that were not refused can be recommended on return (see `LiveCatalogue.register`)."""

        def change() -> Registered:
            registered = self._catalogue.register(items)
            # Counted on the thread, because the caller may be gone by now.
            self._metrics.items("registered", int(registered.created.sum()))
            return registered

        return await self._change(change)

    async def delete(self, key: ItemKey) -> bool:
        """Remove an item; on return it is no longer recommended. Returns False if it did not exist.

        Raises
        ------
        Overloaded : the request was not admitted; nothing was done
        NotReady, StoreUnavailable : nothing was removed
        """
        loop, gone = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            # If the loop has been closed meanwhile, no caller waits.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(gone.set)

        def change() -> bool:
            deleted = self._catalogue.remove(key, tell)
            self._metrics.items("deleted", int(deleted))
            return deleted

        with self._admission.enter(1):
            deleted = await self._change(change)
            await gone.wait()
        return deleted

    def close(self) -> None:
        """Finish the queued changes, and end the thread."""
        self._thread.shutdown()

    async def _change(self, change: Callable[[], Done]) -> Done:
        """Make a change on the thread."""
        asked = time.monotonic()
        run = copy_context().run
        return await asyncio.get_running_loop().run_in_executor(self._thread, run, self._make, change, asked)

    def _make(self, change: Callable[[], Done], asked: float) -> Done:
        if asked < self._failed:
            raise StoreUnavailable("the store failed while this change waited for its turn")
        try:
            with self._metrics.phase("store"):
                done = change()
        except StoreUnavailable:
            self._failed, self._refused = time.monotonic(), True
            self._metrics.store_failed("write")
            raise
        self._refused = False
        return done
