"""Admission control: refuses a request before any work on it starts, if there is too much to do already.

Two things are bounded: the number of admitted items (not of requests, because a request of 500 items costs 500 times as
much as one of a single item), and the expected wait. While nothing is refused, a request may wait for many times as
long as its own work takes. The first refusal begins a state of overload. During overload a request is admitted only if
it would wait for no more than a fraction of its own work's time, so that admitted requests are answered nearly as fast
as by an idle service.

Short queues make small batches, and small batches lower the throughput. The fraction therefore grows with the share of
requests that are admitted: a slightly overloaded service still does nearly all that it can, only later, and a service
whose overload has passed finds out.

Overload ends when most requests are admitted, and the work that has arrived since it began, refused requests included,
and one second's work more could have been done in the time since. So it lasts as long as more work arrives than can be
done, and ends by itself when less does, although single requests are refused by chance up to the end.

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
from service.overload.throughput import Expected

SMOOTHING = 0.1
"""Weight of the newest request in the running mean of how long requests stay."""
LONGEST_RETRY_SECONDS = 30.0

CALM_SECONDS = 1.0
"""Work that is counted as left over when a request is refused, and at most while there is overload."""

CALM_SHARE = 0.9
"""Overload may end once this share of requests is admitted, or once none was refused for `CALM_SECONDS`."""

LONGEST_SECONDS = 30.0
"""Overload may end after this time whatever that share is: it may be other requests that are admitted."""

BURST = 25
"""While nothing is refused, a request may wait for so many times the time that its own work takes."""

LEAST_BURST_SECONDS = 0.1
"""Wait that is allowed in any case while nothing is refused: a page sends several requests at once."""

LEAST_WAIT_SECONDS = 0.001
"""Wait that is always allowed; too short to matter."""

LET_IN_SMOOTHING = 0.005
"""Weight of the newest decision in the running share of admitted requests."""

GROWTH = 4
"""Patience is divided by the share of refused requests to this power."""

LEAST_REFUSED = 0.35
"""Patience grows no more when the share of refused requests is below this."""

NO_WAIT = Expected()


class Admission:
    """Admits requests, within a bound on admitted items and on the expected wait.

    Parameters
    ----------
    capacity : most items admitted at once
    most_wait : longest expected wait in seconds. A request may wait for `BURST` times as long as its own work takes, at
        least `LEAST_BURST_SECONDS` and at most this; one whose own work takes longer may wait for as long as that takes
    patience : during overload a request may wait for `patience` times as long as its own work takes, divided by the
        fourth power of the share of refused requests
    refused : called for each request that is refused
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
        self._overloaded = False
        self._overloaded_at = self._refused_at = 0.0
        self._let_in = 0.0
        self._left_over = 0.0
        self._left_over_at = clock()
        self._clock = clock
        self._mean_stay = 0.0

    def check(self, items: int, expected: Expected, behind: float = 0.0) -> None:
        """Refuse a request of this many items if it cannot be admitted now.

        Parameters
        ----------
        expected : expected waiting and running time of the items
        behind : seconds that the request may have waited already, because the event loop was busy; while nothing is
            refused, only `most_wait` bounds them, so that a short stall of the machine does not count as overload

        Raises
        ------
        Overloaded : it cannot be admitted; `retry_after` is the mean stay of recent requests, in whole seconds
        """
        if self.items + items > self.capacity:
            reason = f"{self.items} items are being worked on and {items} more would exceed {self.capacity}"
            self.refuse(reason, expected.share)
        longest = self._longest_wait(expected.work)
        at_all = longest if self._overloaded else max(self._most_wait, expected.work)
        if expected.wait > longest or expected.wait + behind > at_all:
            reason = f"the request would wait for {expected.wait + behind:.2f} s behind {self.items} items"
            self.refuse(reason, expected.share)

    @contextmanager
    def enter(self, items: int, expected: Expected = NO_WAIT) -> Iterator[None]:
        """Hold a place for `items` while the block runs.

        Raises
        ------
        Overloaded : as in `check`
        """
        self.check(items, expected)
        self._came(expected.share)
        self._decided(let_in=True)
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

    def refuse(self, reason: str, share: float) -> NoReturn:
        """Refuse a request that would take `share` seconds; this starts the state of overload.

        Raises
        ------
        Overloaded : always
        """
        self._came(share)
        if not self._overloaded:
            self._overloaded, self._overloaded_at = True, self._clock()
            self._left_over, self._let_in = CALM_SECONDS, 0.0
        self._decided(let_in=False)
        self._refused_at = self._left_over_at
        self._refused()
        retry_after = min(LONGEST_RETRY_SECONDS, max(1.0, math.ceil(self._mean_stay)))
        raise Overloaded(f"{reason}; try again in {retry_after:.0f} s", retry_after)

    def _longest_wait(self, work: float) -> float:
        """Seconds that a request whose own work takes `work` may wait now."""
        self._came(0.0)
        longest = max(min(self._most_wait, max(BURST * work, LEAST_BURST_SECONDS)), work)
        if not self._overloaded:
            return longest
        patience = self._patience / max(1.0 - self._let_in, LEAST_REFUSED) ** GROWTH
        return min(longest, max(LEAST_WAIT_SECONDS, work * patience))

    def _decided(self, *, let_in: bool) -> None:
        """Update the running share of admitted requests."""
        self._let_in += LET_IN_SMOOTHING * (let_in - self._let_in)

    def _came(self, share: float) -> None:
        """Add arriving work to the work left over, less what could be done since the last call; may end overload."""
        now = self._clock()
        self._left_over = max(0.0, self._left_over - (now - self._left_over_at))
        self._left_over_at = now
        refusing = now - self._refused_at < CALM_SECONDS and now - self._overloaded_at < LONGEST_SECONDS
        many_refused = refusing and self._let_in < CALM_SHARE
        self._overloaded = self._overloaded and (self._left_over > 0 or many_refused)
        self._left_over = min(CALM_SECONDS, self._left_over + share)
