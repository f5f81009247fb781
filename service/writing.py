"""Changes of the catalogue, made for the event loop on a thread of their own.

One thread, because the catalogue makes one change at a time anyway: more of them would only wait for each other, and a
store that is slow to answer must not use up the threads that others need. When the store fails one change, those that
queued up behind it fail with it, instead of each waiting for a failure of its own. What a deletion waits for besides,
batches of searches that may still find the item, it waits for elsewhere.

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

from service.admission import Admission
from service.catalogue.live import LiveCatalogue
from service.catalogue.records import ItemKey, NewItem, Registered
from service.errors import NotReady, StoreUnavailable
from service.metrics import Metrics

Done = TypeVar("Done")

PROBE = "probe"
"""Checkpoint that a probe writes."""


class Writing:
    """Registers and deletes items of one live catalogue.

    Parameters
    ----------
    catalogue : the live catalogue
    admission : shared with the operations; for deletions, since who registers has a place already
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
        """After a refusal, see by a small write of its own whether the store takes changes again."""
        if self._refused:
            try:
                self._catalogue.store.save_checkpoint(PROBE, "")
            except (StoreUnavailable, NotReady):
                return
            self._refused = False

    async def register(self, items: Sequence[NewItem]) -> Registered:
        """Store items; those that were not refused can be recommended on return (see `LiveCatalogue.register`)."""
        registered = await self._change(lambda: self._catalogue.register(items))
        self._metrics.items("registered", int(registered.created.sum()))
        return registered

    async def delete(self, key: ItemKey) -> bool:
        """Remove an item; it is recommended no more on return. False where it was not there.

        Raises
        ------
        Overloaded : no room; nothing was done
        NotReady, StoreUnavailable : nothing was removed
        """
        loop, gone = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            # A loop that has been closed meanwhile has nobody who waits.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(gone.set)

        with self._admission.enter(1):
            deleted = await self._change(lambda: self._catalogue.remove(key, tell))
            self._metrics.items("deleted", int(deleted))
            await gone.wait()
        return deleted

    def close(self) -> None:
        """Finish the changes that wait, and end the thread."""
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
