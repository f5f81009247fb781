"""Admission: how much work may be under way at once, decided before any of it starts.

Counted in items, not in requests, because a request of 500 items costs 500 times one of one. Knows nothing of what is
done with the items. Belongs to one event loop and needs no lock.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.errors import Overloaded

SMOOTHING = 0.1
"""Weight of the newest request in the running mean of how long requests stay."""
LONGEST_RETRY_SECONDS = 30.0


class Admission:
    """A count of admitted items with a bound.

    Parameters
    ----------
    capacity : most items admitted at once
    refused : told of each request that is refused
    clock : seconds, monotonic

    Attributes
    ----------
    items : items admitted now
    requests : requests admitted now
    idle : set while nothing is admitted
    """

    def __init__(
        self,
        capacity: int,
        refused: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.capacity = capacity
        self.items = 0
        self.requests = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self._refused = refused
        self._clock = clock
        self._mean_stay = 0.0

    @contextmanager
    def enter(self, items: int) -> Iterator[None]:
        """Hold a place for `items` while the block runs.

        Raises
        ------
        Overloaded : there is no room; `retry_after` is how long requests have stayed lately, in whole seconds
        """
        if self.items + items > self.capacity:
            self._refused()
            retry_after = min(LONGEST_RETRY_SECONDS, max(1.0, math.ceil(self._mean_stay)))
            raise Overloaded(
                f"{self.items} items are being worked on and {items} more would exceed {self.capacity}; "
                f"try again in {retry_after:.0f} s",
                retry_after,
            )
        self.items += items
        self.requests += 1
        self.idle.clear()
        entered = self._clock()
        try:
            yield
        finally:
            self.items -= items
            self.requests -= 1
            if self.requests == 0:
                self.idle.set()
            self._mean_stay += SMOOTHING * (self._clock() - entered - self._mean_stay)
