"""Changes of the catalogue, made for the event loop on a thread of their own.

One thread, because the catalogue makes one change at a time anyway: more of them would only wait for each other, and a
store that is slow to answer must not use up the threads that others need. Knows nothing of HTTP or of networks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

from service.catalogue.live import LiveCatalogue
from service.catalogue.store import ItemKey, NewItem, Registered
from service.metrics import Metrics


class Writing:
    """Registers and deletes items of one live catalogue."""

    def __init__(self, catalogue: LiveCatalogue, metrics: Metrics) -> None:
        self._catalogue = catalogue
        self._metrics = metrics
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="catalogue-writer")

    async def register(self, items: Sequence[NewItem]) -> Registered:
        """Store items; those that were not refused can be recommended on return (see `LiveCatalogue.register`)."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, copy_context().run, self._register, items)

    async def delete(self, key: ItemKey) -> bool:
        """Remove an item; it is recommended no more on return. False where it was not there."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, copy_context().run, self._delete, key)

    def close(self) -> None:
        """Finish the changes that wait, and end the thread."""
        self._thread.shutdown()

    def _register(self, items: Sequence[NewItem]) -> Registered:
        with self._metrics.phase("store"):
            registered = self._catalogue.register(items)
        self._metrics.items("registered", int(registered.created.sum()))
        return registered

    def _delete(self, key: ItemKey) -> bool:
        with self._metrics.phase("store"):
            deleted = self._catalogue.delete(key)
        self._metrics.items("deleted", int(deleted))
        return deleted
