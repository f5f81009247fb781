"""Five times the load that a service can carry, played through on a clock of its own: who is let in, and how late.

An event loop does one thing after another: it looks at the head of a request, reads and decides on it, and writes the
answer. A batch takes a fixed time and one for each search in it, as batches of the real graph do, and varies by a
tenth.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from service.errors import Overloaded
from service.overload.admission import Admission
from service.overload.early_admission import EarlyAdmission
from service.overload.throughput import Expected, Throughput
from service.settings import Settings

BATCH, BEAMS = 32, 50
SETTLED = 3.0
"""Seconds after which what a first burst may wait no longer counts."""


@dataclass(frozen=True)
class Http:
    """Seconds of the event loop that a request costs: its head, the rest of reading it, its answer."""

    head: float = 0.0
    read: float = 0.0
    write: float = 0.0


FREE, REAL = Http(), Http(0.0001, 0.0015, 0.0005)


@dataclass
class Played:
    """Seconds that accepted requests stayed, once settled, and how many of each size came in, or did not."""

    stays: list[float] = field(default_factory=list)
    accepted: Counter[int] = field(default_factory=Counter)
    refused: Counter[int] = field(default_factory=Counter)
    longest_queue: int = 0

    @property
    def late(self) -> float:
        """The 99th percentile."""
        return sorted(self.stays)[int(0.99 * (len(self.stays) - 1))]

    def share(self, size: int) -> float:
        """Share of the requests of a size that came in."""
        return self.accepted[size] / (self.accepted[size] + self.refused[size])


@dataclass
class Request:
    """One request, and what it holds."""

    since: float
    items: int
    held: ExitStack = field(default_factory=ExitStack)
    place: ExitStack = field(default_factory=ExitStack)


class Service:
    """An event loop and one queue in front of one thread, on a clock that is set to the time of the next event."""

    def __init__(self, base: float, each: float, seed: int, http: Http = FREE, door: bool = True) -> None:
        self._base, self._each, self._http, self._door = base, each, http, door
        self._random = random.Random(seed)
        self._now = 0.0
        self._played = Played()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._tasks: deque[tuple[float, Callable[[], None]]] = deque()
        self._busy = False
        self._waiting: list[Request] = []
        self._running: list[Request] = []
        settings = Settings()
        self._throughput = Throughput(lambda: self._now)
        admission = Admission(
            settings.max_concurrent_items,
            settings.max_wait_seconds,
            settings.overload_patience,
            clock=lambda: self._now,
        )
        self._early = EarlyAdmission(
            admission, self._expected, settings.overload_refusals_per_second, clock=lambda: self._now
        )

    def play(self, rate: float, seconds: float, sizes: Sequence[int] = (1,)) -> Played:
        """Requests arrive at random, `rate` a second, of sizes drawn from these, for some time after the last call."""
        self._played = Played()
        until = self._now + seconds

        def arrive() -> None:
            request = Request(self._now, self._random.choice(sizes))
            self._on_loop(self._http.head, lambda: self._look(request))
            self._after(self._random.expovariate(rate), arrive)

        self._after(self._random.expovariate(rate), arrive)
        while self._events[0][0] < until:
            self._now, _, happen = heapq.heappop(self._events)
            happen()
        self._events = [event for event in self._events if event[2] is not arrive]
        heapq.heapify(self._events)
        return self._played

    def _after(self, seconds: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._now + seconds, next(self._numbers), happen))

    def _on_loop(self, seconds: float, then: Callable[[], None]) -> None:
        self._tasks.append((seconds, then))
        if not self._busy:
            self._next_task()

    def _next_task(self) -> None:
        self._busy = bool(self._tasks)
        if self._tasks:
            seconds, then = self._tasks.popleft()

            def end() -> None:
                then()
                self._next_task()

            self._after(seconds, end)

    def _expected(self, items: int) -> Expected:
        return self._throughput.expected(
            self._throughput.size(items), BEAMS * sum(request.items for request in self._waiting)
        )

    def _look(self, request: Request) -> None:
        try:
            if self._door:
                self._early.look()
        except Overloaded:
            self._played.refused[request.items] += 1
        else:
            request.held.enter_context(self._early.reading())
            self._on_loop(self._http.read, lambda: self._decide(request))

    def _decide(self, request: Request) -> None:
        try:
            request.place.enter_context(self._early.enter(request.items, self._expected(request.items)))
        except Overloaded:
            self._played.refused[request.items] += 1
            request.held.close()
        else:
            self._waiting.append(request)
            self._played.longest_queue = max(self._played.longest_queue, len(self._waiting))
            self._start()

    def _start(self) -> None:
        if self._running or not self._waiting:
            return
        totals = itertools.accumulate(request.items for request in self._waiting)
        count = max(1, sum(total <= BATCH for total in totals))
        self._running, self._waiting = self._waiting[:count], self._waiting[count:]
        items = sum(request.items for request in self._running)
        self._throughput.begin(items, BEAMS * items)
        taken = self._base + self._each * items
        self._after(taken * self._random.lognormvariate(0, 0.1), self._finish)

    def _finish(self) -> None:
        self._throughput.end()
        for request in self._running:
            request.place.close()
            self._on_loop(self._http.write, lambda request=request: self._answer(request))  # type: ignore[misc]
        self._running = []
        self._start()

    def _answer(self, request: Request) -> None:
        request.held.close()
        self._played.accepted[request.items] += 1
        if request.since > SETTLED:
            self._played.stays.append(self._now - request.since)


def full(base: float, each: float) -> float:
    """Most searches a second."""
    return BATCH / (base + BATCH * each)


@pytest.mark.parametrize("http", [FREE, REAL])
@pytest.mark.parametrize(("base", "each"), [(0.0115, 0.0067), (0.002, 0.008), (0.02, 0.001)])
def test_those_let_in_are_served_within_twice_the_time_of_an_idle_service(base: float, each: float, http: Http) -> None:
    capacity = full(base, each)
    idle = Service(base, each, 1, http).play(0.1 * capacity, seconds=30)
    loaded = Service(base, each, 2, http).play(5 * capacity, seconds=10)
    assert not idle.refused
    assert loaded.late <= 2 * idle.late
    assert loaded.refused.total() > 3 * capacity * 10
    assert loaded.longest_queue <= 1.5 * capacity, "a burst of a second, and no more"


def test_without_a_look_at_the_door_reading_alone_takes_all_of_the_time() -> None:
    base, each = 0.0115, 0.0067
    idle = Service(base, each, 1, REAL).play(0.1 * full(base, each), seconds=30)
    loaded = Service(base, each, 2, REAL, door=False).play(5 * full(base, each), seconds=10)
    assert loaded.late > 20 * idle.late


def test_a_load_within_capacity_is_not_refused() -> None:
    base, each = 0.0115, 0.0067
    for http in (FREE, REAL):
        assert not Service(base, each, 3, http).play(0.7 * full(base, each), seconds=30).refused


@pytest.mark.parametrize("share", [0.3, 0.5, 0.6])
def test_all_are_let_in_again_once_it_is_calm(share: float) -> None:
    """Also where small batches, which short waits make, could not keep up with what comes."""
    base, each = 0.0115, 0.0067
    service = Service(base, each, 4, REAL)
    assert service.play(5 * full(base, each), seconds=5).refused
    # With two fifths of the time to spare or more, the second that counts as left over is over after three at most.
    service.play(share * full(base, each), seconds=5)
    assert not service.play(share * full(base, each), seconds=10).refused


def test_slight_overload_is_answered_nearly_as_often_as_can_be() -> None:
    base, each = 0.0115, 0.0067
    loaded = Service(base, each, 6, REAL).play(1.2 * full(base, each), seconds=30)
    assert loaded.accepted.total() > 0.7 * 30 * full(base, each)
    assert loaded.late < 2 * Settings().max_wait_seconds + full(base, each) ** -1 * BATCH


@pytest.mark.parametrize("http", [FREE, REAL])
def test_neither_small_nor_large_requests_are_starved(http: Http) -> None:
    base, each, sizes = 0.0115, 0.0067, (1, 1, 1, 20)
    rate = 5 * full(base, each) / (sum(sizes) / len(sizes))
    loaded = Service(base, each, 5, http).play(rate, seconds=60, sizes=sizes)
    assert loaded.refused.total() > 0
    assert 1 / 4 <= loaded.share(1) / loaded.share(20) <= 4
