"""Five times the load that a queue can carry, played through on a clock of its own: who is let in, and how late.

A batch takes a fixed time and one for each search in it, as batches of the real graph do, and varies by a tenth.
"""

from __future__ import annotations

import math
import random
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import pytest

from service.admission import Admission
from service.errors import Overloaded
from service.pace import Pace
from service.settings import Settings

BATCH, BEAMS = 32, 50
SETTLED = 3.0
"""Seconds after which what a first burst may wait no longer counts."""


@dataclass
class Played:
    """Seconds that accepted requests stayed, once settled; how many were refused; how many waited at most."""

    stays: list[float] = field(default_factory=list)
    refused: int = 0
    longest_queue: int = 0

    @property
    def late(self) -> float:
        """The 99th percentile."""
        return sorted(self.stays)[int(0.99 * (len(self.stays) - 1))]


class Queue:
    """One queue in front of one thread, on a clock that is set to the time of the next event."""

    def __init__(self, base: float, each: float, seed: int) -> None:
        self._base, self._each, self._random = base, each, random.Random(seed)
        self._now = 0.0
        settings = Settings()
        self._pace = Pace(lambda: self._now)
        self._admission = Admission(
            settings.max_concurrent_items,
            settings.max_wait_seconds,
            settings.overload_patience,
            clock=lambda: self._now,
        )
        self._waiting: list[tuple[float, AbstractContextManager[None]]] = []
        self._running: list[tuple[float, AbstractContextManager[None]]] = []

    def play(self, rate: float, seconds: float) -> Played:
        """Requests arrive at random, `rate` a second."""
        played, arrival, done = Played(), self._random.expovariate(rate), math.inf
        while min(arrival, done) < seconds:
            if arrival <= done:
                self._now = arrival
                self._arrive(played)
                arrival += self._random.expovariate(rate)
            else:
                self._now = done
                self._finish(played)
                done = math.inf
            if not self._running and self._waiting:
                self._running, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
                self._pace.begin(len(self._running), BEAMS * len(self._running))
                taken = self._base + self._each * len(self._running)
                done = self._now + taken * self._random.lognormvariate(0, 0.1)
        return played

    def _arrive(self, played: Played) -> None:
        expected = self._pace.expected(self._pace.size(1), BEAMS * len(self._waiting))
        place = self._admission.enter(1, expected)
        try:
            place.__enter__()
        except Overloaded:
            played.refused += 1
        else:
            self._waiting.append((self._now, place))
            played.longest_queue = max(played.longest_queue, len(self._waiting))

    def _finish(self, played: Played) -> None:
        self._pace.end()
        for since, place in self._running:
            place.__exit__(None, None, None)
            if since > SETTLED:
                played.stays.append(self._now - since)
        self._running = []


@pytest.mark.parametrize(("base", "each"), [(0.0115, 0.0067), (0.002, 0.008), (0.02, 0.001)])
def test_those_let_in_are_served_within_twice_the_time_of_an_idle_service(base: float, each: float) -> None:
    capacity = BATCH / (base + BATCH * each)
    idle = Queue(base, each, seed=1).play(0.1 * capacity, seconds=30)
    loaded = Queue(base, each, seed=2).play(5 * capacity, seconds=10)
    assert idle.refused == 0
    assert loaded.late <= 2 * idle.late
    assert loaded.refused > 3 * capacity * 10
    assert loaded.longest_queue <= 1.5 * capacity, "a burst of a second, and no more"


def test_a_load_within_capacity_is_not_refused() -> None:
    base, each = 0.0115, 0.0067
    assert Queue(base, each, seed=3).play(0.7 * BATCH / (base + BATCH * each), seconds=30).refused == 0
