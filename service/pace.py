"""The throughput of a queue, learned from its batches, and the wait and the work that new entries may expect.

One thread works through the queue; any thread may ask. Knows nothing of what waits, nor of how long it may.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

SMOOTHING = 0.2
"""Weight of the newest batch in the running means."""

FORGETTING = 0.0002
"""Weight of the newest batch where it was slower than the best ones."""


@dataclass(frozen=True, slots=True)
class Expected:
    """Seconds that new entries of a queue will wait, and then take, as things stand.

    Attributes
    ----------
    wait, work : seconds
    share : seconds that they would take of a batch that is as cheap an entry as batches get, which are large ones
    """

    wait: float = 0.0
    work: float = 0.0
    share: float = 0.0

    def __add__(self, other: Expected) -> Expected:
        """Of work that goes through one queue and then through another."""
        return Expected(self.wait + other.wait, self.work + other.work, self.share + other.share)


class Pace:
    """Seconds for a unit of size, and the size of an entry; unknown, and taken for nothing, before the first batch.

    Parameters
    ----------
    clock : seconds, monotonic
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._unit: float | None = None
        self._least = 0.0
        self._entry = 0.0
        self._running: tuple[int, float] | None = None

    def begin(self, entries: int, size: int) -> None:
        """A batch of so many entries of this size in all begins."""
        self._entry += (SMOOTHING if self._unit is not None else 1.0) * (size / entries - self._entry)
        self._running = (size, self._clock())

    def end(self) -> None:
        """It has ended."""
        if self._running is None:
            return
        size, began = self._running
        unit = (self._clock() - began) / size
        if self._unit is None:
            self._unit = self._least = unit
        self._unit += SMOOTHING * (unit - self._unit)
        self._least += (SMOOTHING if unit < self._least else FORGETTING) * (unit - self._least)
        self._running = None

    def size(self, entries: int) -> float:
        """Size of entries that nobody has looked at yet."""
        return entries * self._entry

    def expected(self, size: float, ahead: float) -> Expected:
        """What entries of this size in all may expect behind waiting entries of size `ahead` and what runs."""
        unit, running = self._unit or 0.0, self._running
        rest = max(0.0, running[0] * unit - (self._clock() - running[1])) if running else 0.0
        return Expected(rest + ahead * unit, size * unit, size * self._least)
