"""The throughput of a queue, learned from its batches, and the wait and the work that new entries may expect.

One thread works through the queue; any thread may ask. Knows nothing of the entries, nor of limits on waiting.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

SMOOTHING = 0.2
"""Weight of the newest batch in the running means."""

FORGETTING = 0.0002
"""Weight of the newest batch in the estimate of the fastest ones, if it was slower than that."""


@dataclass(frozen=True, slots=True)
class Expected:
    """Seconds that new entries of a queue are expected to wait and then to take.

    Attributes
    ----------
    wait, work : seconds
    share : seconds that they take as part of a batch with the lowest cost per entry, which is a large one
    """

    wait: float = 0.0
    work: float = 0.0
    share: float = 0.0

    def __add__(self, other: Expected) -> Expected:
        """The sum for work that goes through two queues, one after the other."""
        return Expected(self.wait + other.wait, self.work + other.work, self.share + other.share)


class Throughput:
    """Running means of the seconds per unit of size and of the size per entry; both are 0 before the first batch.

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
        """A batch begins: its number of entries and their total size."""
        self._entry += (SMOOTHING if self._unit is not None else 1.0) * (size / entries - self._entry)
        self._running = (size, self._clock())

    def end(self) -> None:
        """The batch has ended: update the means."""
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
        """Estimated total size of so many entries, from their mean."""
        return entries * self._entry

    def expected(self, size: float, ahead: float) -> Expected:
        """Expectation for entries of a total size, behind the running batch and waiting entries of size `ahead`."""
        unit, running = self._unit or 0.0, self._running
        rest = max(0.0, running[0] * unit - (self._clock() - running[1])) if running else 0.0
        return Expected(rest + ahead * unit, size * unit, size * self._least)
