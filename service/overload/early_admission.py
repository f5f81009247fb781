"""Early load shedding for one operation: decides by the head of a request alone whether the request is read at all.

To read a request, to check it and to look up its items takes the event loop about a millisecond, before `Admission`
decides. Under a flood of requests this alone uses up the loop's time, and requests wait in sockets, where nothing
counts them. So HTTP calls `EarlyAdmission.look` as soon as the head of a request is there. It asks `Admission` whether
it would admit a request of average size, behind all requests that are being read and not decided yet, after the current
lag of the event loop. While all requests of the operation have one size, this is what `Admission` would decide later.
Where sizes differ it is an estimate, and `Admission` still decides about every request that passes. It is also bounded
how many requests a second may be read and then refused.

Knows nothing of HTTP. Belongs to one event loop and needs no lock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from service.errors import Overloaded
from service.overload.admission import NO_WAIT, Admission
from service.overload.throughput import Expected

SMOOTHING = 0.1
"""Weight of the newest request in the running mean of their sizes."""


class Reading:
    """A request that counts as being read until the block ends.

    Call `count` with False while its body is waited for, and with True once it is there: a client that sends its body
    slowly must not keep others from being admitted.

    Parameters
    ----------
    admission : where the request counts, from now on
    """

    def __init__(self, admission: EarlyAdmission) -> None:
        self._admission = admission
        self._counted = False
        self.count(True)

    def count(self, here: bool) -> None:
        """Count the request as being read, or not."""
        self._admission.count_read(here - self._counted)
        self._counted = here

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *_: object) -> None:
        self.count(False)


class EarlyAdmission:
    """Requests of one operation, on their way to `Admission`.

    Parameters
    ----------
    admission : shared with the other operations
    expected : expected waiting and running time of a number of items
    most_declined : requests a second that may be read and then refused, and as many at once
    behind : seconds that a request may have waited before `look` is called
    clock : seconds, monotonic
    """

    def __init__(
        self,
        admission: Admission,
        expected: Callable[[int], Expected],
        most_declined: float,
        behind: Callable[[], float] = lambda: 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._admission = admission
        self._expected = expected
        self._most_declined = most_declined
        self._behind = behind
        self._clock = clock
        self._items = 1.0
        self._read = 0
        self._admitted = 0
        self._declined = 0.0
        self._declined_at = clock()

    def look(self) -> None:
        """Refuse a request that is not read yet, if one of average size could not be admitted.

        Raises
        ------
        Overloaded : it would very likely be refused after it was read
        """
        one = self._expected(round(self._items))
        if self._lately() >= self._most_declined:
            self._admission.refuse("too many requests had to be refused after they were read", one.share)
        undecided = max(0, self._read - self._admitted)
        self._admission.check(1, replace(one, wait=one.wait + undecided * one.work), self._behind())

    def reading(self) -> Reading:
        """Let a request pass; it counts as being read from now on."""
        return Reading(self)

    def count_read(self, more: int) -> None:
        """Change the number of requests being read by `more`, which may be negative."""
        self._read += more

    @contextmanager
    def enter(self, items: int, expected: Expected = NO_WAIT) -> Iterator[None]:
        """Hold a place for `items` while the block runs; see `Admission.enter`.

        Raises
        ------
        Overloaded : the request cannot be admitted
        """
        self._items += SMOOTHING * (items - self._items)
        with ExitStack() as place:
            try:
                place.enter_context(self._admission.enter(items, expected))
            except Overloaded:
                self._declined, self._declined_at = self._lately() + 1, self._clock()
                raise
            self._admitted += 1
            place.callback(self._leave)
            yield

    def _leave(self) -> None:
        self._admitted -= 1

    def _lately(self) -> float:
        """Leaky-bucket level of the requests refused after they were read; it drains by `most_declined` a second."""
        return max(0.0, self._declined - (self._clock() - self._declined_at) * self._most_declined)
