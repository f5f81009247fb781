"""The lag of an event loop, measured by how long one iteration takes.

A request waits in its socket until the loop has run everything else that is ready. No queue counts that wait, since it
ends when the loop first sees the request. Under a flood, iterations become long before any queue does. Knows nothing of
requests.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

UNNOTICED_SECONDS = 0.001
"""Part of an iteration's length that does not count as lag."""


class LoopLag:
    """Measures iterations of the running event loop on demand. Belongs to one loop and needs no lock.

    Parameters
    ----------
    clock : seconds, monotonic
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: float | None = None
        self._last = 0.0
        self._ended = 0.0

    def seconds(self) -> float:
        """How long a request that the loop sees now may have waited: the longer of the last iteration and this one.

        The last iteration counts for as long after its end as it took; an older one says nothing about now.
        """
        now = self._clock()
        if self._began is None:
            self._began = now
            asyncio.get_running_loop().call_soon(self._came_round, now)
        last = self._last if now - self._ended < self._last else 0.0
        return max(0.0, max(now - self._began, last) - UNNOTICED_SECONDS)

    def _came_round(self, began: float) -> None:
        self._ended = self._clock()
        self._last, self._began = self._ended - began, None
