"""Clients of a Redis catalogue's server, from a URL: one server, a cluster, or a primary found by Sentinel.

Knows the URLs and how each kind finds its primary again; independent of what is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import redis
import redis.asyncio
from redis.asyncio.cluster import ClusterNode as AsyncClusterNode
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisClusterException
from redis.retry import Retry
from redis.sentinel import Sentinel

from service.errors import ConfigError, StoreUnavailable

SCHEMES = tuple(f"{scheme}{kind}" for kind in ("", "+cluster", "+sentinel") for scheme in ("redis", "rediss"))
"""`rediss` means TLS."""

FORMS = (
    "redis://[user:password@]HOST[:PORT][/DATABASE] (with TLS rediss://..., here and below), "
    "redis+cluster://[user:password@]HOST[:PORT][,HOST[:PORT]...] or "
    "redis+sentinel://[user:password@]HOST[:PORT][,HOST[:PORT]...]/NAME_OF_THE_PRIMARY[/DATABASE]"
    "[?sentinel_password=...]"
)

PORT, SENTINEL_PORT = 6379, 26379

FAILURES = (redis.RedisError, RedisClusterException, OSError)
"""Errors that a client raises for a missing or bad answer."""

SERVING_SECONDS = 5.0
"""Time-out per call while requests wait for it. A call that timed out is not retried."""

PATIENT_SECONDS = 60.0
"""Time-out per call for background work; retried after a time-out, since every call is safe to repeat."""

RETRY_SECONDS = 0.4
"""Maximum back-off before each of three retries after a broken connection."""


@dataclass(frozen=True, slots=True)
class Connected:
    """A client, with its address.

    Attributes
    ----------
    where : the address without its password
    forget_primary : makes the client look up its primary again, after the known one has become a replica
    """

    where: str
    client: Any
    forget_primary: Callable[[], None]


def connect(url: str, serving: bool = False) -> Connected:
    """Make a client, which connects on first use; a cluster client looks up its nodes immediately.

    Parameters
    ----------
    serving : use a short time-out, since requests wait

    Raises
    ------
    ConfigError : the URL is invalid
    StoreUnavailable : no node of the cluster answers
    """
    seconds = SERVING_SECONDS if serving else PATIENT_SECONDS
    repeated = (redis.ConnectionError,) if serving else (redis.ConnectionError, redis.TimeoutError)
    options: dict[str, Any] = {
        "socket_timeout": seconds,
        "socket_connect_timeout": seconds,
        "health_check_interval": 30,
        "retry": Retry(ExponentialBackoff(cap=RETRY_SECONDS, base=RETRY_SECONDS / 8), 3, repeated),
    }
    try:
        parts = urlsplit(url)
        account, _, hosts = parts.netloc.rpartition("@")
        where = f"{parts.scheme}://{hosts}{parts.path}"
        if parts.scheme.endswith("+sentinel"):
            return Connected(where, _sentinel_client(Sentinel, parts, account, hosts, options), _nothing)
        if not parts.scheme.endswith("+cluster"):
            return _one_server(url, where, options)
        if parts.path.strip("/") or parts.query:
            raise ValueError("a cluster has neither databases nor options")
        nodes = [
            ClusterNode(host, port)  # type: ignore[no-untyped-call]
            for host, port in _addresses(hosts, PORT)
        ]
    except ValueError:
        # The parser's message may contain a part of the password.
        raise ConfigError(
            f"store URL redis...: must be {FORMS}; the characters / : @ # ? , of a password must be written as "
            "%2F %3A %40 %23 %3F %2C"
        ) from None
    try:
        client: Any = RedisCluster(startup_nodes=nodes, **_account(parts, account), **options)
    except FAILURES as error:
        raise StoreUnavailable(f"{where}: {error}") from error
    # Unlike a single server's, a cluster client's transactions do not parse the answers.
    for command in ("XRANGE", "XREVRANGE"):
        client.set_response_callback(command, _stream_entries)
    return Connected(where, client, client.nodes_manager.initialize)


def connect_async(url: str) -> Any:
    """Make a client for an event loop, which connects on first use and finds a new primary by itself.

    Calls are not retried, and have no time-outs: bound them by `asyncio.timeout`. With time-outs of its own redis-py
    uses `asyncio.wait_for`, which in Python 3.11 can lose the cancellation of its task.

    Parameters
    ----------
    url : one that `connect` accepted
    """
    options: dict[str, Any] = {
        "socket_timeout": None,
        "socket_connect_timeout": None,
        "retry": AsyncRetry(NoBackoff(), 0),
    }
    parts = urlsplit(url)
    account, _, hosts = parts.netloc.rpartition("@")
    if parts.scheme.endswith("+sentinel"):
        return _sentinel_client(AsyncSentinel, parts, account, hosts, options)
    if parts.scheme.endswith("+cluster"):
        nodes = [AsyncClusterNode(host, port) for host, port in _addresses(hosts, PORT)]
        return AsyncRedisCluster(startup_nodes=nodes, **_account(parts, account), **options)
    return redis.asyncio.Redis.from_url(url, **options)


def _nothing() -> None:
    """Sentinel's connections look for a new primary by themselves."""


def _one_server(url: str, where: str, options: dict[str, Any]) -> Connected:
    def pool() -> redis.ConnectionPool:
        return redis.ConnectionPool.from_url(url, **options)

    try:
        pool().make_connection()
    except (TypeError, redis.RedisError):
        # The option's name is left out: it may be a part of a password that contains a ?.
        raise ConfigError(
            "store URL redis...: what stands behind its ? is no option of a client, or has a wrong value; must be "
            f"{FORMS}; a ? in a password must be written as %3F"
        ) from None
    client: Any = redis.Redis.from_pool(pool())

    def forget_primary() -> None:
        # The host name may resolve to the new primary by now. Old connections stay open for the threads that use
        # them, since no thread may close another's.
        client.connection_pool = pool()

    return Connected(where, client, forget_primary)


def _sentinel_client(
    kind: Callable[..., Any], parts: SplitResult, account: str, hosts: str, options: dict[str, Any]
) -> Any:
    name, _, database = parts.path.strip("/").partition("/")
    given = parse_qs(parts.query, strict_parsing=bool(parts.query))
    passwords = given.pop("sentinel_password", [None])
    if not name or given:
        raise ValueError("a name and no other option")
    sentinel = kind(
        _addresses(hosts, SENTINEL_PORT),
        sentinel_kwargs={**options, "password": passwords[0], "ssl": parts.scheme.startswith("rediss")},
        **options,
    )
    return sentinel.master_for(name, db=int(database or 0), **_account(parts, account))


def _stream_entries(answer: list[tuple[bytes, list[bytes]]], **_: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    return [(entry, dict(zip(fields[::2], fields[1::2], strict=True))) for entry, fields in answer]


def _account(parts: SplitResult, account: str) -> dict[str, Any]:
    user, _, password = account.partition(":")
    return {
        "username": unquote(user) or None,
        "password": unquote(password) or None,
        "ssl": parts.scheme.startswith("rediss"),
    }


def _addresses(hosts: str, port: int) -> list[tuple[str, int]]:
    found = [urlsplit(f"//{part}") for part in hosts.split(",")]
    if not all(part.hostname for part in found):
        raise ValueError("an address without a host")
    return [(str(part.hostname), part.port or port) for part in found]
