"""Texts over HTTP with one and the same encoder, all-MiniLM-L6-v2: ours gives IDs, the peers give vectors.

Peers: infinity, and sentence-transformers behind the least HTTP. All servers have every core and are asked in turns
from this process, over loopback, for a bounded time. Ours does more: it also tokenizes.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.open_loop import Call, Outcome, offer, one_by_one
from benchmarks.peers import program_of_peers
from benchmarks.processes import free_port, service, wait_until_ready
from benchmarks.rows import Row
from benchmarks.text_bundle import text_bundle
from service.items import ItemContent, compose_text
from training.encoders.sentence_encoder import minilm_folder

TOGETHER = 16
"""Texts of one request where the rate counts."""
CLIENTS = 4
FASTER = 1.5
"""Least ratio to each peer in items a second; in the 99th percentile it is 1."""


@dataclass(frozen=True)
class Server:
    """A running server, and the request that it takes for some items."""

    name: str
    address: str
    ours: bool

    def call(self, items: Sequence[ItemContent]) -> Call:
        """The same texts, whoever is asked."""
        if self.ours:
            fields = ("title", "brand", "categories", "description")
            return Call.post(
                "/tokenize",
                {"items": [{"domain": "movies", **{name: getattr(item, name) for name in fields}} for item in items]},
            )
        return Call.post("/embeddings", {"model": "minilm", "input": [compose_text(item) for item in items]})


@contextmanager
def peer(name: str, command: Sequence[str], port: int) -> Iterator[Server]:
    """A peer's server in a process of its own."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": str(_cores())}
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(
        [str(program_of_peers(command[0])), *command[1:]], env=environment, stdout=quiet, stderr=quiet
    )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until_ready(f"{address}/health", process)
        yield Server(name, address, ours=False)
    finally:
        process.terminate()
        process.wait(60)


def infinity(engine: str, model: Path) -> tuple[str, list[str], int]:
    """How infinity is started, without its cache of answers."""
    port = free_port()
    options = ["--model-id", str(model), "--served-model-name", "minilm", "--engine", engine, "--device", "cpu"]
    options += ["--dtype", "float32", "--no-bettertransformer", "--no-vector-disk-cache", "--no-model-warmup"]
    return f"infinity, {engine}", ["infinity_emb", "v2", *options, "--host", "127.0.0.1", "--port", str(port)], port


def sentence_transformers(model: Path) -> tuple[str, list[str], int]:
    """How our least server around sentence-transformers is started."""
    port = free_port()
    script = Path(__file__).parent / "peers" / "sentence_transformers_server.py"
    return "sentence-transformers", ["python", str(script), str(model), str(port)], port


def run(seconds: float = 6.0, rounds: int = 2) -> Iterator[Row]:
    """Items a second with requests of sixteen; latency with requests of one, at a rate that the slowest can take."""
    made, model = text_bundle(), minilm_folder()
    items = made.films
    with ExitStack() as stack:
        served = stack.enter_context(service(made.folder))
        servers = [Server("ours", served.address, ours=True)]
        for command in (infinity("torch", model), sentence_transformers(model)):
            servers.append(stack.enter_context(peer(*command)))
        batches = [items[at : at + TOGETHER] for at in range(0, len(items) - TOGETHER, TOGETHER)]
        rates: dict[str, list[float]] = {each.name: [] for each in servers}
        alone: dict[str, float] = {}
        for each in servers:
            asyncio.run(one_by_one(each.address, [each.call(items[:4])] * 4, 1.0, clients=1))
            answers = asyncio.run(one_by_one(each.address, [each.call([item]) for item in items], 2.0, clients=1))
            alone[each.name] = statistics.median(answer.milliseconds for answer in answers)
        for _ in range(rounds):
            for each in servers:
                calls = [each.call(batch) for batch in batches]
                started = time.perf_counter()
                answers = asyncio.run(one_by_one(each.address, calls, seconds, clients=CLIENTS))
                found = Outcome.of(answers, time.perf_counter() - started)
                rates[each.name].append(TOGETHER * found.rate)
        rate = 500.0 / max(alone.values())
        late = {}
        for each in servers:
            calls = [each.call([items[number % len(items)]]) for number in range(round(rate * seconds * rounds))]
            started = time.perf_counter()
            answers = asyncio.run(offer(each.address, calls, rate))
            late[each.name] = Outcome.of(answers, time.perf_counter() - started)
    ours = statistics.median(rates.pop("ours"))
    for name, measured in rates.items():
        note = f"{name}, vectors alone"
        measure = f"text to ID over HTTP, {CLIENTS} clients, {TOGETHER} texts a request, beside {name}"
        yield Row(measure, ours, "items/s", statistics.median(measured), note, FASTER)
        measure = f"text to ID over HTTP, one at a time, median, beside {name}"
        yield Row(measure, alone["ours"], "ms", alone[name], note)
        note += ": half the rate that the slowest sustains one by one"
        measure = f"text to ID over HTTP at {rate:.0f} requests/s, 99th percentile, beside {name}"
        yield Row(measure, late["ours"].late, "ms", late[name].late, note, 1.0)


def _cores() -> int:
    return len(os.sched_getaffinity(0))
