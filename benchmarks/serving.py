"""The service over HTTP on this machine: what a request costs beside what the engine alone costs; open-loop latency.

The load is sent at a fixed rate whatever the answers do (open loop), to loopback only, for a bounded time.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from benchmarks.open_loop import Call, Outcome, offer
from benchmarks.processes import service
from benchmarks.rows import Row

REQUEST = {"history": [{"title": "Toy Story (1995)", "domain": "movies"}], "k": 10, "domains": ["movies"]}


def one_after_the_other(request: Callable[[], httpx.Response], count: int = 100) -> float:
    """Median milliseconds of a request when nothing else runs."""
    times = []
    for _ in range(count):
        started = time.perf_counter()
        request().raise_for_status()
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times)


def run(folder: Path = Path("models/sample"), rate: float = 20.0, count: int = 200) -> list[Row]:
    """Measure on the sample bundle."""
    item = {"items": [{"domain": "movies", "title": "A heist on the night train to Lisbon"}]}
    calls = [Call.post("/recommend", REQUEST)] * count
    with service(folder) as served, httpx.Client(base_url=served.address) as client:
        recommend = one_after_the_other(lambda: client.post("/recommend", json=REQUEST))
        tokenize = one_after_the_other(lambda: client.post("/tokenize", json=item))
        floor = one_after_the_other(lambda: client.get("/livez"))
        began = time.perf_counter()
        answers = asyncio.run(offer(served.address, calls, rate))
        loaded = Outcome.of(answers, time.perf_counter() - began)
    return [
        Row("POST /recommend, one at a time, median", recommend, "ms", note="beam 50, one raw item of history"),
        Row("POST /tokenize, one at a time, median", tokenize, "ms", note="one item from text"),
        Row("GET /livez, one at a time, median", floor, "ms", note="what HTTP itself costs"),
        Row(f"POST /recommend at {rate:g} requests/s, median", loaded.median, "ms", note="open loop"),
        Row(f"POST /recommend at {rate:g} requests/s, 99th percentile", loaded.late, "ms", note="open loop"),
        Row(f"POST /recommend at {rate:g} requests/s, answered", loaded.rate, "requests/s", note="open loop"),
    ]
