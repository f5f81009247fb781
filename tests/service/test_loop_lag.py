"""Rounds of a real event loop, on a clock that only the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from service.overload.loop_lag import UNNOTICED_SECONDS, LoopLag


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def played(play: Callable[[LoopLag, Clock], None]) -> tuple[LoopLag, Clock]:
    """A lag whose loop ran `play` in one round and has come round since."""
    clock = Clock()
    lag = LoopLag(clock)

    async def main() -> None:
        play(lag, clock)
        await asyncio.sleep(0)

    asyncio.run(main())
    return lag, clock


def seconds(lag: LoopLag) -> float:
    async def ask() -> float:
        return lag.seconds()

    return asyncio.run(ask())


def test_a_loop_that_comes_round_at_once_is_not_behind() -> None:
    lag, _ = played(lambda lag, clock: None)
    assert seconds(lag) == 0


def test_what_is_asked_late_in_a_round_may_have_waited_since_it_began() -> None:
    asked: list[float] = []

    def play(lag: LoopLag, clock: Clock) -> None:
        for _ in range(3):
            asked.append(lag.seconds())
            clock.now += 0.5

    played(play)
    assert asked == pytest.approx([0, 0.5 - UNNOTICED_SECONDS, 1 - UNNOTICED_SECONDS])


def test_a_round_counts_for_as_long_again() -> None:
    def play(lag: LoopLag, clock: Clock) -> None:
        lag.seconds()
        clock.now += 2.0

    lag, clock = played(play)
    clock.now += 1.9
    assert seconds(lag) == pytest.approx(2 - UNNOTICED_SECONDS)
    lag, clock = played(play)
    clock.now += 2.1
    assert seconds(lag) == 0


def test_a_short_round_is_not_noticed() -> None:
    def play(lag: LoopLag, clock: Clock) -> None:
        lag.seconds()
        clock.now += UNNOTICED_SECONDS / 2

    lag, _ = played(play)
    assert seconds(lag) == 0
