"""Rate limits in items, one token bucket per caller: in this process, or shared by all replicas through Redis.

A bucket holds at most `capacity` items and fills at `rate` items a second. A request is let in when the bucket holds
its cost, or is full: a cost above the capacity leaves a debt, so that a large request waits longer but is never locked
out. Knows nothing of keys and HTTP.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from typing import Protocol

from service.catalogue.redis_clients import FAILURES, SCHEMES, connect_async

REDIS_SECONDS = 0.25
"""Longest wait for the shared bucket: a limit must not cost more than the work that it limits."""
CALLS_AT_ONCE = 50
"""Calls of Redis at the same time; more wait for their turn. Each takes a connection, and a client that needs more than
100 of them fails as if Redis were away."""
RETRY_SECONDS = 5.0
"""How long the process uses its own buckets after Redis did not answer."""


@dataclass(frozen=True, slots=True)
class Limit:
    """The limit of one caller.

    Attributes
    ----------
    rate : items a second
    capacity : items at once
    """

    rate: float
    capacity: float


@dataclass(frozen=True, slots=True)
class Allowance:
    """The decision about one request, and the state of its bucket.

    Attributes
    ----------
    granted : whether it may go on
    remaining : items in the bucket now, 0 where there is a debt
    retry_after : seconds until the same cost would be granted, 0 if it was
    full_after : seconds until the bucket is full
    """

    limit: Limit
    granted: bool
    remaining: float
    retry_after: float
    full_after: float


class Rates(Protocol):
    """Buckets by name."""

    async def take(self, name: str, cost: int, limit: Limit) -> Allowance:
        """Take `cost` items out of a bucket if it holds them; a negative cost puts items back, up to the capacity."""

    async def close(self) -> None:
        """Give up connections."""


class MemoryRates:
    """Buckets of this process; belongs to one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    async def take(self, name: str, cost: int, limit: Limit) -> Allowance:
        """See `Rates.take`."""
        now = self._clock()
        level, since = self._buckets.get(name, (limit.capacity, now))
        level = min(limit.capacity, level + (now - since) * limit.rate)
        granted = cost < 0 or level >= min(cost, limit.capacity)
        if granted:
            # The bucket may have filled since the items that are put back were taken.
            level = min(limit.capacity, level - cost)
        self._buckets[name] = (level, now)
        return allowance(limit, granted, level, cost)

    async def close(self) -> None:
        """Nothing is held."""


class RedisRates:
    """Buckets shared through Redis, one Lua call per request; while Redis is away, the process's own buckets are used.

    Parameters
    ----------
    url : of the server that also holds the catalogue: one, a cluster, or one behind Sentinel
    """

    def __init__(self, url: str) -> None:
        self._redis = connect_async(url)
        self._take = self._redis.register_script(
            resources.files("service.access").joinpath("lua", "rate.lua").read_text(encoding="utf-8")
        )
        self._turns = asyncio.Semaphore(CALLS_AT_ONCE)
        self._own = MemoryRates()
        self._again_at = -math.inf

    async def take(self, name: str, cost: int, limit: Limit) -> Allowance:
        """See `Rates.take`; never fails and never waits long."""
        if time.monotonic() >= self._again_at:
            try:
                async with asyncio.timeout(REDIS_SECONDS), self._turns:
                    granted, level = await self._take([f"unitok:rate:{name}"], [limit.rate, limit.capacity, cost])
                return allowance(limit, bool(granted), float(level), cost)
            except FAILURES:
                self._again_at = time.monotonic() + RETRY_SECONDS
        return await self._own.take(name, cost, limit)

    async def close(self) -> None:
        """Give up connections."""
        with suppress(*FAILURES):
            async with asyncio.timeout(REDIS_SECONDS):
                await self._redis.aclose()


def open_rates(store_url: str) -> Rates:
    """Buckets shared by all replicas if the catalogue store is Redis, else buckets of this process."""
    return RedisRates(store_url) if store_url.partition("://")[0] in SCHEMES else MemoryRates()


def allowance(limit: Limit, granted: bool, level: float, cost: int) -> Allowance:
    """The decision about a request of `cost` items, by the level of its bucket."""
    missing = 0.0 if granted else min(cost, limit.capacity) - level
    return Allowance(
        limit=limit,
        granted=granted,
        remaining=max(0.0, level),
        retry_after=missing / limit.rate,
        full_after=(limit.capacity - level) / limit.rate,
    )
