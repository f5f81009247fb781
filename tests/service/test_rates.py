"""Token buckets: in memory against a slow twin, in Redis against the same promises, and Redis away."""

from __future__ import annotations

import asyncio
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis_server import RedisServer

from service.rates import Limit, MemoryRates, RedisRates, open_rates

SLOW = Limit(rate=0.001, capacity=10)


@given(
    rate=st.integers(1, 50),
    capacity=st.integers(1, 100),
    steps=st.lists(st.tuples(st.integers(0, 200), st.integers(1, 150)), max_size=30),
)
def test_a_bucket_in_memory_follows_its_rule(rate: int, capacity: int, steps: list[tuple[int, int]]) -> None:
    """Against exact fractions; time advances in 64ths of a second, which floats hold exactly."""
    now, level = Fraction(0), Fraction(capacity)
    rates = MemoryRates(clock=lambda: float(now))

    async def run() -> None:
        nonlocal now, level
        for pause, cost in steps:
            now += Fraction(pause, 64)
            level = min(Fraction(capacity), level + Fraction(pause, 64) * rate)
            found = await rates.take("key", cost, Limit(rate, capacity))
            granted = level >= min(cost, capacity)
            level -= cost if granted else 0
            assert found.granted is granted
            assert found.remaining == max(0, level)
            assert found.retry_after == pytest.approx(0 if granted else float((min(cost, capacity) - level) / rate))

    asyncio.run(run())


def test_a_request_above_the_capacity_passes_a_full_bucket_and_leaves_a_debt() -> None:
    async def run() -> None:
        now = 0.0
        rates = MemoryRates(clock=lambda: now)
        assert (await rates.take("a", 25, Limit(1, 10))).granted
        refused = await rates.take("a", 1, Limit(1, 10))
        assert (refused.granted, refused.retry_after, refused.full_after) == (False, 16.0, 25.0)
        assert (await rates.take("b", 1, Limit(1, 10))).granted
        now = 16.0
        assert (await rates.take("a", 1, Limit(1, 10))).granted

    asyncio.run(run())


def test_replicas_share_one_bucket_in_redis(redis_server: RedisServer) -> None:
    async def run() -> None:
        first, second = RedisRates(redis_server.url + "/9"), open_rates(redis_server.url + "/9")
        found = [await rates.take("shared", 4, SLOW) for rates in (first, second, first)]
        assert [one.granted for one in found] == [True, True, False]
        assert found[1].remaining == pytest.approx(2, abs=0.01)
        assert found[2].retry_after == pytest.approx(2000, abs=10)
        assert (await second.take("another", 10, SLOW)).granted
        for rates in (first, second):
            await rates.close()

    asyncio.run(run())


def test_many_callers_at_once_get_exactly_what_is_there(redis_server: RedisServer) -> None:
    async def run() -> None:
        replicas = [RedisRates(redis_server.url + "/9") for _ in range(3)]
        found = await asyncio.gather(*(replicas[n % 3].take("crowd", 1, SLOW) for n in range(60)))
        assert sum(one.granted for one in found) == 10
        for rates in replicas:
            await rates.close()

    asyncio.run(run())


def test_a_full_bucket_leaves_nothing_in_redis(redis_server: RedisServer) -> None:
    async def run() -> None:
        rates = RedisRates(redis_server.url + "/9")
        await rates.take("passing", 5, SLOW)
        assert 5000 < await rates._redis.ttl("unitok:rate:passing") < 5010
        await rates.close()

    asyncio.run(run())


def test_while_redis_is_away_the_process_counts_alone(tmp_path: Path) -> None:
    async def run() -> None:
        server = RedisServer(tmp_path)
        server.start()
        rates = RedisRates(server.url)
        assert (await rates.take("a", 10, SLOW)).granted
        assert not (await rates.take("a", 1, SLOW)).granted
        server.kill()
        found = [(await rates.take("a", 4, SLOW)).granted for _ in range(3)]
        assert found == [True, True, False]
        await rates.close()

    asyncio.run(run())


def test_the_buckets_follow_the_store() -> None:
    assert isinstance(open_rates("embedded:var/catalogue"), MemoryRates)
    assert isinstance(open_rates("rediss://localhost"), RedisRates)
