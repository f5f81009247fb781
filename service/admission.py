"""Admission: how much work may be under way at once, decided before any of it starts.

Counted in items, not in requests, because a request of 500 items costs 500 times one of one; and in time, because what
is admitted should also be answered soon. A burst may wait for a while. Once something was refused, the service is
overloaded until nothing was refused for a second; until then a request is admitted only if it waits about as long as
its own work takes, so that those who are let in are served nearly as fast as when it is idle.

Knows nothing of what is done with the items. Belongs to one event loop and needs no lock.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from service.errors import Overloaded
from service.pace import Expected

SMOOTHING = 0.1
"""Weight of the newest request in the running mean of how long requests stay."""
LONGEST_RETRY_SECONDS = 30.0

CALM_SECONDS = 1.0
"""How long nothing may have been refused before a burst may wait again."""

LEAST_WAIT_SECONDS = 0.005
"""A wait that matters to nobody."""

NO_WAIT = Expected()


class Admission:
    """A count of admitted items with a bound.

    Parameters
    ----------
    capacity : most items admitted at once
    most_wait : seconds that a request may be expected to wait, or as long as its own work takes, if that is more
    patience : while overloaded: how many times the time of its own work it may wait
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
        most_wait: float = math.inf,
        patience: float = 1.0,
        refused: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.capacity = capacity
        self.items = 0
        self.requests = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self._most_wait = most_wait
        self._patience = patience
        self._refused = refused
        self._refused_at = -math.inf
        self._clock = clock
        self._mean_stay = 0.0

    @contextmanager
    def enter(self, items: int, expected: Expected = NO_WAIT) -> Iterator[None]:
        """Hold a place for `items` while the block runs.

        Parameters
        ----------
        expected : how long they would wait, and then take

        Raises
        ------
        Overloaded : there is no room; `retry_after` is how long requests have stayed lately, in whole seconds
        """
        if self.items + items > self.capacity:
            self._refuse(f"{self.items} items are being worked on and {items} more would exceed {self.capacity}")
        if expected.wait > self._longest_wait(expected.work):
            self._refuse(f"the request would wait for {expected.wait:.2f} s behind {self.items} items")
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

    def _longest_wait(self, work: float) -> float:
        """Seconds that a request whose own work takes `work` may wait now."""
        if self._clock() - self._refused_at >= CALM_SECONDS:
            return max(self._most_wait, work)
        return max(LEAST_WAIT_SECONDS, work * self._patience)

    def _refuse(self, reason: str) -> NoReturn:
        self._refused_at = self._clock()
        self._refused()
        retry_after = min(LONGEST_RETRY_SECONDS, max(1.0, math.ceil(self._mean_stay)))
        raise Overloaded(f"{reason}; try again in {retry_after:.0f} s", retry_after)
