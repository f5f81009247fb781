"""The throughput of a queue: what it learns from batches, and what it then expects."""

from __future__ import annotations

import pytest

from service.overload.throughput import Expected, Throughput


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def batch(throughput: Throughput, clock: Clock, entries: int, size: int, seconds: float) -> None:
    throughput.begin(entries, size)
    clock.now += seconds
    throughput.end()


def test_nothing_is_expected_before_the_first_batch() -> None:
    assert Throughput().expected(100.0, 1000.0) == Expected(0.0, 0.0)


def test_a_queue_is_expected_to_go_on_as_it_went() -> None:
    clock = Clock()
    throughput = Throughput(clock)
    for _ in range(3):
        batch(throughput, clock, entries=4, size=200, seconds=2.0)
    assert throughput.size(3) == pytest.approx(150)
    assert throughput.expected(throughput.size(3), 50.0) == Expected(*map(pytest.approx, (0.5, 1.5, 1.5)))  # type: ignore[arg-type]


def test_what_runs_is_waited_for_as_far_as_it_is_not_done() -> None:
    clock = Clock()
    throughput = Throughput(clock)
    batch(throughput, clock, entries=1, size=10, seconds=1.0)
    throughput.begin(2, 20)
    assert throughput.expected(0.0, 0.0).wait == pytest.approx(2.0)
    clock.now += 1.5
    assert throughput.expected(0.0, 0.0).wait == pytest.approx(0.5)
    clock.now += 9.0
    assert throughput.expected(0.0, 0.0).wait == 0.0, "it takes longer than it should; nobody knows how long"
    throughput.end()
    assert throughput.expected(0.0, 10.0).wait > 1.0, "and the throughput is taken to be slower now"


def test_what_has_ended_is_not_waited_for() -> None:
    clock = Clock()
    throughput = Throughput(clock)
    batch(throughput, clock, entries=1, size=10, seconds=5.0)
    batch(throughput, clock, entries=1, size=10, seconds=1.0)
    assert throughput.expected(0.0, 0.0).wait == 0.0


def test_the_share_is_that_of_the_cheapest_batches() -> None:
    """It is learned at once from batches that are cheaper an entry, and hardly forgotten over dearer ones."""
    clock = Clock()
    throughput = Throughput(clock)
    batch(throughput, clock, entries=1, size=1, seconds=1.0)
    assert throughput.expected(1.0, 0.0).share == pytest.approx(1.0)
    for _ in range(40):
        batch(throughput, clock, entries=10, size=10, seconds=1.0)
    assert throughput.expected(1.0, 0.0).share == pytest.approx(0.1, rel=0.01)
    for _ in range(40):
        batch(throughput, clock, entries=1, size=1, seconds=1.0)
    now = throughput.expected(1.0, 0.0)
    assert now.work == pytest.approx(1.0, rel=0.01)
    assert now.share == pytest.approx(0.1, rel=0.1)


def test_the_pace_follows_a_machine_that_changes() -> None:
    clock = Clock()
    throughput = Throughput(clock)
    batch(throughput, clock, entries=1, size=1, seconds=1.0)
    for _ in range(40):
        batch(throughput, clock, entries=8, size=8, seconds=0.8)
    assert throughput.expected(1.0, 0.0).work == pytest.approx(0.1, rel=0.01)


def test_expectations_of_two_queues_add_up() -> None:
    assert Expected(1.0, 2.0, 1.5) + Expected(0.5, 0.25, 0.125) == Expected(1.5, 2.25, 1.625)
