"""Token buckets: in memory against a slow twin, in Redis against the same promises, and Redis away."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from redis_groups import PATIENCE_SECONDS, RedisCluster, SentinelGroup, until
from redis_server import RedisServer

from service.access.rates import Limit, MemoryRates, RedisRates, open_rates

SLOW = Limit(rate=0.001, capacity=10)


@pytest.fixture(autouse=True, scope="module")
def patience() -> Iterator[None]:
    """A busy machine must not make a bucket look as if Redis were away."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("service.access.rates.REDIS_SECONDS", 20.0)
        yield


@given(
    rate=st.integers(1, 50),
    capacity=st.integers(1, 100),
    steps=st.lists(st.tuples(st.integers(0, 200), st.integers(-150, 150)), max_size=30),
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
            granted = cost < 0 or level >= min(cost, capacity)
            level = min(Fraction(capacity), level - (cost if granted else 0))
            assert found.granted is granted
            assert found.remaining == max(0, level)
            assert found.full_after >= 0
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


@pytest.mark.parametrize("kind", ["memory", "redis"])
def test_what_is_put_back_fills_a_bucket_to_its_brim_and_pays_off_a_debt(redis_server: RedisServer, kind: str) -> None:
    """A bucket fills while a request runs that in the end costs nothing; another may have left a debt by then."""

    async def run() -> None:
        rates = MemoryRates() if kind == "memory" else RedisRates(redis_server.url + "/9")
        await rates.take(f"brim-{kind}", 3, SLOW)
        full = await rates.take(f"brim-{kind}", -5, SLOW)
        assert (full.granted, full.remaining, full.full_after) == (True, 10, 0)
        assert (await rates.take(f"brim-{kind}", 1, SLOW)).remaining == pytest.approx(9, abs=0.01)
        await rates.take(f"debt-{kind}", 40, SLOW)
        paid = await rates.take(f"debt-{kind}", -5, SLOW)
        assert paid.granted
        assert paid.full_after == pytest.approx(35 / SLOW.rate, abs=10)
        await rates.close()

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
    """A replica with more than 100 at once ran out of connections, and used its own buckets for a while."""

    async def run() -> None:
        replicas = [RedisRates(redis_server.url + "/9") for _ in range(3)]
        found = await asyncio.gather(*(replicas[n % 3].take("crowd", 1, SLOW) for n in range(600)))
        assert sum(one.granted for one in found) == 10
        for rates in replicas:
            await rates.close()

    asyncio.run(run())


def test_a_bucket_fills_on_after_the_servers_clock_was_set_back(redis_server: RedisServer) -> None:
    """What was written a day from now, as the clock then went, holds nobody up today."""

    async def run() -> None:
        rates, limit = RedisRates(redis_server.url), Limit(rate=50, capacity=10)
        client = redis.Redis.from_url(redis_server.url)
        await rates.take("key", 10, limit)
        (bucket,) = client.keys("*key*")
        client.hset(bucket, mapping={"level": "0", "at": f"{(time.time() + 86_400) * 1e6:.0f}"})
        assert not (await rates.take("key", 5, limit)).granted
        given_up = time.monotonic() + PATIENCE_SECONDS
        while not (await rates.take("key", 5, limit)).granted:
            assert time.monotonic() < given_up
        client.close()
        await rates.close()

    asyncio.run(run())


def test_a_full_bucket_leaves_nothing_in_redis(redis_server: RedisServer) -> None:
    async def run() -> None:
        rates = RedisRates(redis_server.url + "/9")
        await rates.take("passing", 5, SLOW)
        assert 5000 < redis.Redis.from_url(redis_server.url + "/9").ttl("unitok:rate:passing") < 5010
        await rates.close()

    asyncio.run(run())


def test_a_bucket_in_redis_never_holds_more_than_its_capacity(redis_server: RedisServer) -> None:
    async def run() -> None:
        rates, limit = RedisRates(redis_server.url + "/9"), Limit(rate=50, capacity=10)
        with redis.Redis.from_url(redis_server.url + "/9") as client:
            client.hset("unitok:rate:rested", mapping={"level": "3", "at": f"{(time.time() - 3600) * 1e6:.0f}"})
        assert (await rates.take("rested", 4, limit)).remaining == 6
        await rates.close()

    asyncio.run(run())


def test_while_redis_is_away_the_process_counts_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And for some time after: each request that asked whether it is back might wait for it."""
    monkeypatch.setattr("service.access.rates.RETRY_SECONDS", 3600.0)

    async def run() -> None:
        server = RedisServer(tmp_path)
        server.start()
        rates = RedisRates(server.url)
        assert (await rates.take("a", 10, SLOW)).granted
        assert not (await rates.take("a", 1, SLOW)).granted
        server.kill()
        found = [(await rates.take("a", 4, SLOW)).granted for _ in range(3)]
        assert found == [True, True, False]
        server.start()
        assert (await rates.take("a", 2, SLOW)).granted, "which Redis would not have granted"
        server.kill()
        await rates.close()

    asyncio.run(run())


def test_a_caller_who_gives_up_while_redis_is_silent_is_let_go_at_any_moment() -> None:
    """A cancellation that comes just as something was sent is not lost, else a request outlives its deadline."""

    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=1000) as silent:
            for moment in range(400):
                rates = RedisRates(f"redis://127.0.0.1:{silent.getsockname()[1]}")
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(moment % 40 * 1e-4):
                        await rates.take("a", 1, SLOW)
                await rates.close()

    asyncio.run(run())


def test_replicas_share_one_bucket_in_a_cluster(tmp_path: Path) -> None:
    async def run() -> None:
        with RedisCluster(tmp_path, "s3cret") as cluster:
            replicas = [open_rates(cluster.url) for _ in range(2)]
            found = {
                name: [(await rates.take(name, 4, SLOW)).granted for rates in (*replicas, replicas[0])]
                for name in "abcdefgh"
            }
            # The names fall on several primaries.
            assert sum(count > 0 for count in cluster.keys_of_each()) > 1
            for rates in replicas:
                await rates.close()
        assert [*found.values()] == [[True, True, False]] * 8

    asyncio.run(run())


def test_a_bucket_behind_sentinel_is_shared_again_after_its_primary_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.access.rates.RETRY_SECONDS", 0.0)

    async def run() -> None:
        with SentinelGroup(tmp_path, "s3cret") as group:
            first, second = (open_rates(group.url) for _ in range(2))
            assert [(await rates.take("a", 5, SLOW)).granted for rates in (first, second, first)] == [True, True, False]
            before = group.primary_port()
            group.servers[0].kill()
            until(lambda: group.primary_port() != before)
            shared, given_up = 0, time.monotonic() + PATIENCE_SECONDS
            while shared < 1:
                # What one takes is missing for the other only if both count in the new primary.
                name = f"after-{time.monotonic()}"
                await first.take(name, 10, SLOW)
                shared += not (await second.take(name, 10, SLOW)).granted
                assert time.monotonic() < given_up
            for rates in (first, second):
                await rates.close()

    asyncio.run(run())


def test_the_buckets_follow_the_store() -> None:
    assert isinstance(open_rates("embedded:var/catalogue"), MemoryRates)
    for scheme in ("redis", "rediss", "redis+cluster", "rediss+sentinel"):
        assert isinstance(open_rates(f"{scheme}://localhost/name"), RedisRates)
