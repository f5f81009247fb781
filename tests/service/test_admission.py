"""Admission counts items, refuses before work starts, and says when to come back."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Overloaded
from service.overload.admission import (
    BURST,
    CALM_SECONDS,
    LEAST_BURST_SECONDS,
    LEAST_REFUSED,
    LONGEST_SECONDS,
    Admission,
)
from service.overload.throughput import Expected


@given(st.lists(st.integers(1, 6), max_size=20), st.integers(1, 15))
def test_the_bound_holds_and_what_is_refused_changes_nothing(requests: list[int], capacity: int) -> None:
    admission = Admission(capacity)
    admitted = 0
    with ExitStack() as stack:
        for items in requests:
            if admitted + items <= capacity:
                stack.enter_context(admission.enter(items))
                admitted += items
            else:
                with pytest.raises(Overloaded), admission.enter(items):
                    pytest.fail("entered above the capacity")
            assert admission.items == admitted
    assert (admission.items, admission.requests) == (0, 0)


def test_places_come_back_when_the_work_fails() -> None:
    admission = Admission(2)
    with pytest.raises(ZeroDivisionError), admission.enter(2):
        raise ZeroDivisionError
    assert admission.items == 0


def test_retry_after_follows_how_long_requests_stay() -> None:
    now = [0.0]
    admission = Admission(1, clock=lambda: now[0])

    def refused() -> float:
        with admission.enter(1):
            with pytest.raises(Overloaded) as caught, admission.enter(1):
                pass
            return caught.value.retry_after

    assert refused() == 1.0
    for _ in range(60):
        with admission.enter(1):
            now[0] += 5.0
    assert refused() == 5.0
    for _ in range(60):
        with admission.enter(1):
            now[0] += 500.0
    assert refused() == 30.0


@pytest.mark.parametrize("lull", [True, False])
def test_a_burst_may_wait_but_overload_may_not(lull: bool) -> None:
    now, counted = [0.0], [0]

    def count() -> None:
        counted[0] += 1

    admission = Admission(100, most_wait=1.0, patience=2.0, refused=count, clock=lambda: now[0])

    def admitted(wait: float, work: float, share: float = 0.0) -> bool:
        try:
            with admission.enter(1, Expected(wait, work, share)):
                return True
        except Overloaded:
            return False

    assert admitted(1.0, 0.1), "a burst"
    assert admitted(5.0, 6.0), "a large request waits for another"
    assert not admitted(1.1, 0.1)
    assert admitted(0.2, 0.1), "twice its own work"
    assert not admitted(0.3, 0.1), "what a burst may wait, nobody may while there is overload"
    for _ in range(30):
        now[0] += CALM_SECONDS / 10
        assert not admitted(0.3, 0.1, share=CALM_SECONDS / 8), "more comes than can be done"
    for _ in range(9):
        now[0] += CALM_SECONDS / 10
        assert not admitted(0.3, 0.1), "that has to be done first"
    now[0] += CALM_SECONDS / 4
    assert not admitted(1.0, 0.1), "nearly all were refused lately"
    if lull:
        now[0] += CALM_SECONDS
    else:
        for _ in range(1000):
            assert admitted(0.0, 0.1)
    assert admitted(1.0, 0.1), "calm again"
    assert (counted[0], admission.items, admission.requests) == (42, 0, 0)


@pytest.mark.parametrize(
    ("work", "most_wait", "longest"),
    [
        (0.001, 0.25, LEAST_BURST_SECONDS),
        (0.008, 0.25, BURST * 0.008),
        (0.02, 0.25, 0.25),
        (0.001, 0.05, 0.05),
        (0.5, 0.25, 0.5),
    ],
)
def test_a_burst_may_wait_as_suits_what_an_answer_takes(work: float, most_wait: float, longest: float) -> None:
    def admitted(wait: float) -> bool:
        try:
            Admission(100, most_wait=most_wait, clock=lambda: 0.0).check(1, Expected(wait, work))
        except Overloaded:
            return False
        return True

    assert admitted(longest)
    assert not admitted(1.001 * longest)


def test_a_loop_that_is_held_up_is_no_flood_until_there_is_one() -> None:
    admission, quick = Admission(100, most_wait=0.25, patience=1.0, clock=lambda: 0.0), Expected(0.05, 0.004)
    admission.check(1, quick, behind=0.19)
    with pytest.raises(Overloaded, match=r"wait for 0\.26 s"):
        admission.check(1, quick, behind=0.21)
    with pytest.raises(Overloaded, match=r"wait for 0\.01 s"):
        admission.check(1, Expected(0.0, 0.004), behind=0.01)
    admission.check(1, Expected(0.0, 0.004), behind=0.003)


def test_overload_ends_once_less_comes_than_can_be_done_though_nobody_was_let_in() -> None:
    now = [0.0]
    admission = Admission(100, most_wait=1.0, patience=1.0, clock=lambda: now[0])
    with pytest.raises(Overloaded), admission.enter(1, Expected(2.0, 0.1)):
        pass
    refused = 0
    while now[0] < 100:
        now[0] += 0.05
        try:
            with admission.enter(1, Expected(wait=0.5, work=0.1, share=0.04)):
                break
        except Overloaded:
            refused += 1
    assert refused == pytest.approx(LONGEST_SECONDS / 0.05, abs=2), "others may be let in, by another queue"


def test_patience_grows_with_the_share_that_is_let_in() -> None:
    admission = Admission(100, most_wait=10.0, patience=0.25, clock=lambda: 0.0)

    def admitted(wait: float) -> bool:
        try:
            with admission.enter(1, Expected(wait, 0.1)):
                return True
        except Overloaded:
            return False

    def longest() -> float:
        """Halved until it is known to a millisecond, so that few decisions are made."""
        low, high = 0.0, 11.0
        while high - low > 0.001:
            middle = (low + high) / 2
            low, high = (middle, high) if admitted(middle) else (low, middle)
        return low

    assert not admitted(11.0)
    assert longest() == pytest.approx(0.025, rel=0.4)
    for _ in range(2000):
        for wait in (0.0, 11.0):
            admitted(wait)
    assert longest() == pytest.approx(0.4, rel=0.4), "half are refused, so sixteen times as long"
    for _ in range(2000):
        assert admitted(0.0)
    assert longest() == pytest.approx(0.025 / LEAST_REFUSED**4, rel=0.01), "nearly all are let in"


def test_the_count_of_items_is_refused_whatever_the_wait() -> None:
    admission = Admission(1)
    with admission.enter(1, Expected(9.0, 9.0)), pytest.raises(Overloaded), admission.enter(1):
        pass


def test_it_is_idle_once_the_last_request_has_left() -> None:
    admission = Admission(10)
    assert admission.idle.is_set()
    with admission.enter(1):
        with admission.enter(2):
            assert not admission.idle.is_set()
        assert not admission.idle.is_set()
    assert admission.idle.is_set()


class Overload:
    """An admission on a clock of its own that has just refused somebody."""

    def __init__(self) -> None:
        self.now = 0.0
        self.admission = Admission(10_000, clock=lambda: self.now)
        self.begin()

    def begin(self) -> None:
        with pytest.raises(Overloaded):
            self.admission.refuse("there is too much", 0.0)

    def lets_in(self, wait: float, work: float = 1.0, share: float = 0.0) -> bool:
        try:
            with self.admission.enter(1, Expected(wait, work, share)):
                return True
        except Overloaded:
            return False


def test_every_overload_begins_with_little_patience() -> None:
    """However large a part was let in before."""
    overload = Overload()
    overload.now += 10.0
    for _ in range(2000):
        assert overload.lets_in(wait=1.5)
    overload.begin()
    assert not overload.lets_in(wait=1.5)
    assert overload.lets_in(wait=0.9)


def test_a_wait_that_matters_to_nobody_is_no_reason_to_refuse() -> None:
    overload = Overload()
    assert overload.lets_in(wait=0.0009, work=0.0001)
    assert not overload.lets_in(wait=0.0011, work=0.0001)


def test_overload_lasts_while_as_much_is_let_in_as_can_be_done() -> None:
    overload = Overload()
    for _ in range(50):
        overload.now += 0.125
        assert overload.lets_in(wait=0.0, share=0.125)
    assert not overload.lets_in(wait=5.0)
    overload.now += 2 * CALM_SECONDS
    assert overload.lets_in(wait=5.0)


def test_overload_lasts_while_more_is_refused_than_can_be_done() -> None:
    overload = Overload()
    for _ in range(int(2 * LONGEST_SECONDS)):
        overload.now += 0.5
        assert not overload.lets_in(wait=1.5, share=0.75)
    overload.now += 2 * CALM_SECONDS
    assert overload.lets_in(wait=1.5), "it ends as soon as less comes, however much had come"
