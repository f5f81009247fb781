"""The service over HTTP on this machine: what a request costs beside what the engine alone costs; open-loop latency.

The load is sent at a fixed rate whatever the answers do (open loop), to loopback only, for a bounded time.
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import httpx

from benchmarks.rows import Row

REQUEST = {"history": [{"title": "Toy Story (1995)", "domain": "movies"}], "k": 10, "domains": ["movies"]}


@contextmanager
def server(bundle: Path, settings: Mapping[str, str] = MappingProxyType({})) -> Iterator[str]:
    """The real service in a process of its own, with an empty embedded store and further settings."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as store:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        command = [str(Path(sys.executable).parent / "unitok"), "serve", "--bundle", str(bundle), "--port", str(port)]
        environment = os.environ | {"UNITOK_STORE": f"embedded:{store}", "UNITOK_LOG_LEVEL": "error"}
        environment |= settings
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        address = f"http://127.0.0.1:{port}"
        try:
            wait_until_ready(address, process)
            yield address
        finally:
            process.terminate()
            process.wait(60)


def wait_until_ready(address: str, process: subprocess.Popen[bytes]) -> None:
    """Poll `/readyz` for at most three minutes, as a machine that is busy otherwise may need."""
    until = time.monotonic() + 180
    while time.monotonic() < until and process.poll() is None:
        try:
            if httpx.get(f"{address}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError("the service did not become ready within three minutes")


def one_after_the_other(request: Callable[[], httpx.Response], count: int = 100) -> float:
    """Median milliseconds of a request when nothing else runs."""
    times = []
    for _ in range(count):
        started = time.perf_counter()
        request().raise_for_status()
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times)


async def open_loop(address: str, body: dict[str, object], rate: float, count: int) -> tuple[float, float, float]:
    """Median and 99th percentile of latency in milliseconds, and answers a second, at a fixed rate of requests."""
    limits = httpx.Limits(max_connections=256)
    async with httpx.AsyncClient(base_url=address, limits=limits, timeout=60) as client:
        began = time.perf_counter()

        async def send(number: int) -> float:
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            (await client.post("/recommend", json=body)).raise_for_status()
            return 1e3 * (time.perf_counter() - due)

        latencies = sorted(await asyncio.gather(*(send(number) for number in range(count))))
        elapsed = time.perf_counter() - began
    return statistics.median(latencies), latencies[int(0.99 * (count - 1))], count / elapsed


def run(folder: Path = Path("models/sample"), rate: float = 20.0, count: int = 200) -> list[Row]:
    """Measure on the sample bundle."""
    item = {"items": [{"domain": "movies", "title": "A heist on the night train to Lisbon"}]}
    with server(folder) as address, httpx.Client(base_url=address) as client:
        recommend = one_after_the_other(lambda: client.post("/recommend", json=REQUEST))
        tokenize = one_after_the_other(lambda: client.post("/tokenize", json=item))
        floor = one_after_the_other(lambda: client.get("/livez"))
        median, late, answered = asyncio.run(open_loop(address, REQUEST, rate, count))
    return [
        Row("POST /recommend, one at a time, median", recommend, "ms", note="beam 50, one raw item of history"),
        Row("POST /tokenize, one at a time, median", tokenize, "ms", note="one item from text"),
        Row("GET /livez, one at a time, median", floor, "ms", note="what HTTP itself costs"),
        Row(f"POST /recommend at {rate:g} requests/s, median", median, "ms", note="open loop"),
        Row(f"POST /recommend at {rate:g} requests/s, 99th percentile", late, "ms", note="open loop"),
        Row(f"POST /recommend at {rate:g} requests/s, answered", answered, "requests/s", note="open loop"),
    ]
