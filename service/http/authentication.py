"""Authentication and rate limits: the key is checked before the body is read; answers state the remaining quota.

A route states which scope it needs and how many items it works on (`Caller`). Knows nothing of what the routes do.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.access.keys import ApiKey, ApiKeys, KeyScope
from service.access.rates import Allowance, Limit, Rates
from service.errors import Overloaded, RateLimited, Unauthenticated
from service.http import documentation
from service.http.middleware import answer_and_linger
from service.http.problems import error_response
from service.metrics import Metrics

OPEN_PATHS = frozenset({"/livez", "/readyz", "/metrics", "/openapi.json"}) | documentation.PATHS
"""Paths that need no key: for probes, Prometheus, and readers of the documentation."""


@dataclass(slots=True)
class Caller:
    """The caller of a request: its key and its rate limit.

    Attributes
    ----------
    key : None if the service has no keys or the path needs none; then everything is allowed
    allowance : answer of the rate limit, once it was asked
    """

    key: ApiKey | None
    rates: Rates
    limit: Limit | None
    metrics: Metrics
    allowance: Allowance | None = None

    def require(self, scope: KeyScope) -> None:
        """Refuse a caller whose key lacks a scope.

        Raises
        ------
        Forbidden : the key lacks it
        """
        if self.key is not None:
            self.key.require(scope)

    async def charge(self, items: int) -> None:
        """Count items against the caller's rate, before any work.

        Raises
        ------
        RateLimited : the rate is used up; nothing was counted
        """
        async with self.charged(items):
            pass

    @asynccontextmanager
    async def charged(self, items: int) -> AsyncIterator[None]:
        """As `charge`, but the items are refunded if the block raises `Overloaded`, so that a retry costs nothing."""
        if self.key is None:
            yield
            return
        await self._take(self.key, items)
        counted = items
        try:
            yield
        except Overloaded:
            counted = 0
            if self.limit is not None:
                self.allowance = await self.rates.take(self.key.name, -items, self.limit)
            raise
        finally:
            self.metrics.charged(self.key.name, counted)

    async def _take(self, key: ApiKey, items: int) -> None:
        if self.limit is None:
            return
        self.allowance = await self.rates.take(key.name, items, self.limit)
        if not self.allowance.granted:
            self.metrics.rejected("rate_limited")
            wait = max(1, math.ceil(self.allowance.retry_after))
            raise RateLimited(
                f"key {key.name!r} may use {self.limit.rate:g} items a second and {self.limit.capacity:g} at once; "
                f"this request is {items}; try again in {wait} s",
                wait,
            )


class Authentication:
    """Middleware that admits callers with a valid key, or everyone without keys; sets `scope["state"]["caller"]`.

    Parameters
    ----------
    keys : the configured keys
    rates : token buckets of their rate limits
    rate : items a second for keys without their own rate; 0 for no limit
    burst_seconds : how many seconds' worth of items may be used at once
    """

    def __init__(
        self, app: ASGIApp, *, keys: ApiKeys, rates: Rates, rate: float, burst_seconds: float, metrics: Metrics
    ) -> None:
        self._app = app
        self._keys = keys
        self._rates = rates
        self._rate = rate
        self._burst_seconds = burst_seconds
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        key = None
        if self._keys and scope["path"] not in OPEN_PATHS:
            try:
                key = self._authenticate(headers.get("authorization"))
            except Unauthenticated as error:
                self._metrics.rejected("unauthenticated")
                unread = "content-length" in headers or "transfer-encoding" in headers
                response = error_response(scope, error)
                if unread:
                    response.headers["Connection"] = "close"
                await answer_and_linger(response, receive, send, more=unread)
                return
        caller = Caller(key, self._rates, self._limit(key), self._metrics)
        scope["state"]["caller"] = caller

        async def send_with_allowance(message: Message) -> None:
            if message["type"] == "http.response.start" and caller.allowance is not None:
                _state(caller.allowance, MutableHeaders(scope=message))
            await send(message)

        if key is None:
            await self._app(scope, receive, send)
        else:
            with structlog.contextvars.bound_contextvars(key=key.name):
                scope["state"]["key"] = key.name
                await self._app(scope, receive, send_with_allowance)

    def _authenticate(self, authorization: str | None) -> ApiKey:
        scheme, _, secret = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not secret:
            raise Unauthenticated("send an API key as `Authorization: Bearer KEY`")
        key = self._keys.find(secret.strip())
        if key is None:
            raise Unauthenticated("the API key is not known here; it may have been withdrawn")
        return key

    def _limit(self, key: ApiKey | None) -> Limit | None:
        if key is None:
            return None
        rate = self._rate if key.items_per_second is None else key.items_per_second
        return Limit(rate, max(1.0, rate * self._burst_seconds)) if rate else None


def _state(allowance: Allowance, headers: MutableHeaders) -> None:
    """State the remaining quota in the fields of draft-ietf-httpapi-ratelimit-headers.

    q is the quota, w its window in seconds, r what remains, t the seconds until the quota is full again.
    """
    limit = allowance.limit
    window = math.ceil(limit.capacity / limit.rate)
    headers["RateLimit-Policy"] = f'"items";q={math.floor(limit.capacity)};w={window}'
    remaining, full = math.floor(allowance.remaining), math.ceil(allowance.full_after)
    headers["RateLimit"] = f'"items";r={remaining};t={full}'
