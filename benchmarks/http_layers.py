"""Where a /recommend spends the processor's time outside the network: layer by layer, in one process, without sockets.

The application is entered at every depth in turns, and a layer's part is what the next one inwards takes less. Seconds
are the processor's, of the event loop's thread and of all others; the least of many rounds, since other work on the
machine only adds. Symbols: L levels, N experts.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import uvloop
from fastapi import FastAPI
from starlette.types import ASGIApp, Message

from benchmarks.rows import Row
from benchmarks.serving import BEAMS, HISTORY, SAMPLE, catalogue, engine_alone, request
from service.access.rates import MemoryRates
from service.bundle.files import Bundle
from service.http.app import create_app
from service.http.authentication import Caller
from service.http.requests import RecommendRequest
from service.http.routes.operations import recommend
from service.lifecycle import Service, State
from service.logs import configure_logs
from service.opening import opened
from service.settings import read_settings

TOGETHER = 5
"""Calls that are timed as one: the clock of a thread is not free."""

REST = "FastAPI within: route, dependencies, body, bytes of the answer"
ANSWER = "route function: models of the answer"
OPERATION = "operation: history looked up, waiting in the queue"

Call = Callable[[], Awaitable[object]]


def run(bundle: Path = SAMPLE, rounds: int = 40) -> Iterator[Row]:
    """One row a layer, outermost first, and one for the search's thread."""
    domain = Bundle.open(bundle).manifest.recommenders[0].domains[0]
    names, values = catalogue(bundle, domain)
    body = orjson.dumps(request(names[:HISTORY], domain))
    alone = engine_alone(bundle, domain, values[:HISTORY])
    loop, beside, network = uvloop.run(_measured(bundle, body, alone, rounds))
    note = f"processor time, {BEAMS} beams, {HISTORY} known items of history, {len(names):,} items"
    yield Row("POST /recommend, event loop, all layers", next(iter(loop.values())), "us", note=note)
    for (name, taken), (_, inner) in pairwise([*loop.items(), ("", 0.0)]):
        yield Row(f"POST /recommend, event loop, {name}", taken - inner, "us", note=note)
    yield Row("POST /recommend, search's thread, on top of the network", beside - network, "us", note=note)


async def _measured(
    bundle: Path, body: bytes, alone: Callable[[], object], rounds: int
) -> tuple[dict[str, float], float, float]:
    """Microseconds of the loop's thread from each layer inwards, of the other threads for all, of the network alone."""
    configure_logs("error", "json")
    with tempfile.TemporaryDirectory() as store:
        settings = read_settings(bundle=bundle, store=f"embedded:{store}")
        with opened(settings) as part:
            app = create_app(settings, engine=part.engine, catalogue=part.catalogue)
            async with app.router.lifespan_context(app):
                service: Service = app.state.service
                while service.state is not State.READY:
                    await asyncio.sleep(0.1)
                calls = _calls(app, service, body)
                found: dict[str, list[float]] = {name: [] for name in calls}
                beside, network = [], []
                turns = deque(calls.items())
                for _ in range(rounds):
                    # Whoever is first after the network finds empty caches; that is no one layer's fault.
                    turns.rotate()
                    for name, call in turns:
                        thread, process = time.thread_time(), time.process_time()
                        for _ in range(TOGETHER):
                            await call()
                        found[name].append(time.thread_time() - thread)
                        beside.append(time.process_time() - process - found[name][-1])
                    process = time.process_time()
                    for _ in range(TOGETHER):
                        alone()
                    network.append(time.process_time() - process)
    unit = 1e6 / TOGETHER
    return {name: unit * min(taken) for name, taken in found.items()}, unit * min(beside), unit * min(network)


def _calls(app: FastAPI, service: Service, body: bytes) -> dict[str, Call]:
    """One request, entering at each layer; outermost first."""
    caller = Caller(None, MemoryRates(), None, service.metrics)
    state = {"request_id": "benchmark", "caller": caller}
    calls: dict[str, Call] = {"FastAPI and telemetry": partial(_ask, app, app, body, state)}
    layer: Any = app.build_middleware_stack()
    while layer is not app.router:
        name = type(layer).__name__
        # The last layer keeps what the router needs for its own clean-up, so the router is entered through it.
        inner = getattr(layer, "_app", None) or layer.app
        calls[REST if inner is app.router else name] = partial(_ask, layer, app, body, state)
        layer = inner
    read = RecommendRequest.model_validate(orjson.loads(body))
    calls[ANSWER] = lambda: recommend(read, caller, service)
    calls[OPERATION] = partial(service.recommending.recommend, read.query())
    return calls


async def _ask(layer: ASGIApp, app: FastAPI, body: bytes, state: dict[str, Any]) -> None:
    """Send a request to one layer.

    Raises
    ------
    RuntimeError : the answer is not 200
    """
    headers = {b"host": b"localhost", b"content-type": b"application/json", b"content-length": b"%d" % len(body)}
    where = {"path": "/recommend", "raw_path": b"/recommend", "query_string": b"", "root_path": "", "scheme": "http"}
    known = {"type": "http", "http_version": "1.1", "method": "POST", "client": ("127.0.0.1", 1), "app": app}
    unread, statuses = [body], []

    async def receive() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        await asyncio.Event().wait()
        raise AssertionError("the client stays")

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await layer({**known, **where, "headers": [*headers.items()], "state": dict(state)}, receive, send)
    if statuses != [200]:
        raise RuntimeError(f"{type(layer).__name__} answered {statuses}")
