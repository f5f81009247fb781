"""Load at a rate of its own, whatever the answers do: an open loop, over as many connections as it takes.

Arrivals are random and independent of each other (Poisson), as those of many users are, and latency counts from when a
call was due, so that a client that falls behind cannot hide it. The client parses answers in C and costs about a tenth
of a millisecond a call, since it shares the machine with what it measures. To loopback, for a bounded time.
"""

from __future__ import annotations

import asyncio
import random
import selectors
import statistics
import time
from collections import Counter
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httptools
import orjson

MOST_CONNECTIONS = 4_000
"""Calls that may be unanswered at once."""

IDLE_SECONDS = 2.0
"""How long an idle connection is used again; the server closes one after five seconds."""

GLANCE_SECONDS = 0.0005

FAILED = 0
"""Status of a call whose connection broke."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request; `name` is what it is counted under."""

    name: str
    method: str
    path: str
    body: bytes = b""

    @classmethod
    def post(cls, path: str, body: object) -> Call:
        """A POST with a JSON body, counted under its path."""
        return cls(path, "POST", path, orjson.dumps(body))


def written(call: Call, host: str) -> bytes:
    """A call as it is sent."""
    lines = [f"{call.method} {call.path} HTTP/1.1", f"Host: {host}"]
    if call.body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(call.body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + call.body


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a call.

    Attributes
    ----------
    milliseconds : from when it was due
    retry_after : the header, where there is one
    """

    name: str
    status: int
    milliseconds: float
    retry_after: str | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of many calls: latencies of those that were accepted, and how many got which status.

    Attributes
    ----------
    median, late : milliseconds, the 50th and the 99th percentile of what was answered with 2xx
    rate : answers with 2xx a second
    statuses : answers by status
    unhelpful : refusals (429) without `Retry-After`
    """

    median: float
    late: float
    rate: float
    statuses: dict[int, int]
    unhelpful: int

    @classmethod
    def of(cls, answers: Sequence[Answer], seconds: float) -> Outcome:
        """The outcome of calls that were offered for so long."""
        accepted = [answer.milliseconds for answer in answers if 200 <= answer.status < 300]
        if not accepted:
            raise RuntimeError(f"nothing was accepted: {Counter(answer.status for answer in answers)}")
        return cls(
            median=statistics.median(accepted),
            late=late(accepted),
            rate=len(accepted) / seconds,
            statuses=dict(sorted(Counter(answer.status for answer in answers).items())),
            unhelpful=sum(answer.status == 429 and answer.retry_after is None for answer in answers),
        )


def late(milliseconds: Iterable[float]) -> float:
    """The 99th percentile."""
    rising = sorted(milliseconds)
    return rising[int(0.99 * (len(rising) - 1))]


class _Glances(selectors.DefaultSelector):
    """Looks at its sockets every so often, in place of being woken by each."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready now, or `GLANCE_SECONDS` later."""
        ready = super().select(0)
        if not ready and timeout != 0:
            time.sleep(GLANCE_SECONDS if timeout is None else min(timeout, GLANCE_SECONDS))
            ready = super().select(0)
        return ready


def glancing(asking: Coroutine[Any, Any, list[Answer]]) -> list[Answer]:
    """Run a client that looks for answers twice a millisecond, for a flood on a machine with few cores.

    A client that sleeps until an answer comes is woken by the server's own call that sends it, on the server's core and
    before that call returns: each answer would cost the server as much as the client does with it.
    """
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(_Glances())) as runner:
        return runner.run(asking)


async def offer(address: str, calls: Iterable[Call], rate: float) -> list[Answer]:
    """Make the calls at `rate` a second on average; all their answers, in the order in which they came.

    Raises
    ------
    RuntimeError : more calls are unanswered than `MOST_CONNECTIONS`
    """
    where = urlsplit(address)
    host, port = where.hostname or "", where.port or 80
    gaps = random.Random(0)
    idle: list[_Connection] = []
    answers: list[Answer] = []
    waiting: set[asyncio.Task[None]] = set()
    loop = asyncio.get_running_loop()

    async def make(call: Call, due: float) -> None:
        try:
            connection = _reused(idle)
            if connection is None:
                _, connection = await loop.create_connection(lambda: _Connection(where.netloc), host, port)
            status, retry_after = await connection.send(call)
        except OSError:
            status, retry_after = FAILED, None
        else:
            idle.append(connection)
        answers.append(Answer(call.name, status, 1e3 * (time.perf_counter() - due), retry_after))

    due = time.perf_counter()
    for call in calls:
        due += gaps.expovariate(rate)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        if len(waiting) >= MOST_CONNECTIONS:
            raise RuntimeError(f"{len(waiting)} calls are unanswered")
        task = asyncio.create_task(make(call, due))
        waiting.add(task)
        task.add_done_callback(waiting.discard)
    while waiting:
        await asyncio.wait(waiting)
    for connection in idle:
        connection.close()
    return answers


def measured(address: str, calls: Sequence[Call], rate: float, name: str | None = None) -> Outcome:
    """Offer calls at `rate` a second on average; what became of them, or of those of one name."""
    began = time.perf_counter()
    answers = asyncio.run(offer(address, calls, rate))
    seconds = time.perf_counter() - began
    return Outcome.of([answer for answer in answers if name in (None, answer.name)], seconds)


async def one_by_one(address: str, calls: Sequence[Call], seconds: float, clients: int) -> list[Answer]:
    """A closed loop: each client makes the next call when its last is answered, for so long or until none is left."""
    where = urlsplit(address)
    host, port = where.hostname or "", where.port or 80
    loop = asyncio.get_running_loop()
    until, rest, answers = time.perf_counter() + seconds, iter(calls), list[Answer]()

    async def client() -> None:
        _, connection = await loop.create_connection(lambda: _Connection(where.netloc), host, port)
        while time.perf_counter() < until and (call := next(rest, None)):
            started = time.perf_counter()
            status, retry_after = await connection.send(call)
            answers.append(Answer(call.name, status, 1e3 * (time.perf_counter() - started), retry_after))
        connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return answers


def _reused(idle: list[_Connection]) -> _Connection | None:
    """An idle connection that the server still holds open, the one used last, if there is one."""
    while idle:
        connection = idle.pop()
        if connection.reusable:
            return connection
        connection.close()
    return None


class _Connection(asyncio.Protocol):
    """One connection that carries one call at a time."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._parser = httptools.HttpResponseParser(self)
        self._retry_after: str | None = None
        self._answered: asyncio.Future[tuple[int, str | None]] | None = None
        self._transport: asyncio.Transport | None = None
        self._open = True
        self._used = time.monotonic()

    @property
    def reusable(self) -> bool:
        """Whether another call may be sent."""
        return self._open and time.monotonic() - self._used < IDLE_SECONDS

    def send(self, call: Call) -> asyncio.Future[tuple[int, str | None]]:
        """Send a call; its status and `Retry-After` are to come.

        Raises
        ------
        ConnectionError : the connection broke before the answer
        """
        self._answered = asyncio.get_running_loop().create_future()
        self._retry_after = None
        if self._transport is None or self._transport.is_closing():
            self._answered.set_exception(ConnectionResetError("closed by the server"))
            return self._answered
        self._transport.write(written(call, self._host))
        return self._answered

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._open = False
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error or ConnectionResetError("closed by the server"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        if name.lower() == b"retry-after":
            self._retry_after = value.decode()

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self._open, self._used = self._parser.should_keep_alive(), time.monotonic()
        if self._answered is not None and not self._answered.done():
            self._answered.set_result((self._parser.get_status_code(), self._retry_after))
