"""Who is sent away before they are read: asked of `Admission`, behind all that are read and not decided yet."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from service.errors import Overloaded
from service.overload.admission import Admission
from service.overload.early_admission import EarlyAdmission
from service.overload.throughput import Expected

WORK = 0.1
MOST_DECLINED = 10


class Operation:
    """Early admission on a clock of its own; each item takes a tenth of a second, behind a wait that the test sets."""

    def __init__(self, capacity: int = 1000) -> None:
        self.now = 0.0
        self.wait = self.behind = 0.0
        self.asked: list[int] = []
        self.admission = Admission(capacity, most_wait=1.0, patience=1.0, clock=lambda: self.now)
        self.early = EarlyAdmission(self.admission, self.expected, MOST_DECLINED, lambda: self.behind, lambda: self.now)

    def expected(self, items: int) -> Expected:
        self.asked.append(items)
        return Expected(self.wait, WORK * items)

    def passes(self) -> bool:
        try:
            self.early.look()
        except Overloaded:
            return False
        return True

    def enters(self, items: int, wait: float) -> bool:
        try:
            with self.early.enter(items, Expected(wait, WORK * items)):
                assert self.admission.items == items
        except Overloaded:
            return False
        return True


def test_a_request_is_sent_away_when_one_like_it_would_be_refused() -> None:
    operation = Operation(capacity=2)
    assert operation.passes()
    operation.wait = 1.1
    assert not operation.passes()
    operation.wait = WORK
    assert operation.passes()
    with operation.admission.enter(2):
        assert not operation.passes()
    assert operation.passes()


def test_those_that_are_read_but_not_decided_count_as_waiting() -> None:
    operation = Operation()
    with ExitStack() as stack:
        held = [stack.enter_context(operation.early.reading()) for _ in range(11)]
        assert not operation.passes(), "11 times a tenth of a second is too long for a burst"
        operation.now += 10
        held[0].count(False)
        assert operation.passes(), "one whose body does not come keeps nobody out"
        held[0].count(False)
        assert operation.passes(), "it is taken off once"
        held[0].count(True)
        held[0].count(True)
        assert not operation.passes()
        operation.now += 10
        with operation.early.enter(1):
            assert operation.passes(), "what is admitted is counted by the queue itself"
        assert not operation.passes()
    operation.now += 10
    assert operation.passes()


def test_what_a_request_waited_before_it_was_looked_at_counts() -> None:
    operation = Operation()
    operation.behind = 0.6
    assert operation.passes()
    operation.wait = 0.6
    assert not operation.passes()
    operation.behind, operation.now = 0.0, 10.0
    assert operation.passes()


def test_the_size_asked_about_follows_those_that_came() -> None:
    operation = Operation()
    operation.early.look()
    for _ in range(100):
        assert operation.enters(20, wait=0.0)
    operation.early.look()
    for _ in range(100):
        assert operation.enters(1, wait=0.0)
    operation.early.look()
    assert operation.asked == [1, 20, 1]


def test_how_many_may_be_declined_after_they_were_read_is_bounded() -> None:
    operation = Operation()
    read = 0
    for _ in range(10_000):
        operation.now += 0.001
        if operation.passes():
            read += 1
            assert not operation.enters(1, wait=5.0), "the queue knows better than the estimate"
    assert 10 * MOST_DECLINED <= read <= 11 * MOST_DECLINED, "as many at once, and so many a second for ten seconds"
    operation.now += 1 + 1 / MOST_DECLINED
    assert operation.passes()


def test_as_many_at_once_may_be_declined_and_no_more() -> None:
    operation = Operation()
    for _ in range(MOST_DECLINED):
        assert operation.passes()
        assert not operation.enters(1, wait=5.0)
    assert not operation.passes()


def test_places_come_back_when_the_work_fails() -> None:
    operation = Operation()
    with pytest.raises(ZeroDivisionError), operation.early.reading(), operation.early.enter(3):
        raise ZeroDivisionError
    assert operation.admission.items == 0
    operation.wait = 1.0
    assert operation.passes()
