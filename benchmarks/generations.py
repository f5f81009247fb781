"""Switching between two ID generations and back, as clients of two replicas see it: how long, and who fails?

Two real services on one store server serve both generations while every replica is asked for recommendations at a
steady rate. A switch counts from its start, interpreter and all, to the first answer of the other generation on the
replica that answers so last: `python -m benchmarks generations`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

import httpx

from benchmarks.overload import calls
from benchmarks.processes import Served, service, store_server
from benchmarks.rows import Row
from service.bundle.files import read_manifest, write_manifest
from service.http.generations import PIN

REPLICAS = 2
MOST_SECONDS = 1.0
PATIENCE = 30.0
"""Seconds after which a switch that nobody followed is given up."""

PAUSES = (1.2, 1.8)
"""Seconds between switches, drawn between these: they should meet the replicas at any moment between two looks."""


@dataclass(slots=True)
class Watched:
    """What a replica answered: when, and by which generation; and what it answered instead."""

    answers: list[tuple[float, int]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def first(self, generation: int, since: float) -> float | None:
        """When it first answered by a generation, after a moment; None if it has not yet."""
        return next((at for at, by in self.answers if at >= since and by == generation), None)


@dataclass(frozen=True, slots=True)
class Switch:
    """Seconds of one: of whoever asked for it alone, and until every replica had answered by the other generation."""

    asking: float
    followed: float


def next_generation(bundle: Path, folder: Path) -> Path:
    """A copy of a bundle under the next number: what a switch costs does not depend on what the networks say."""
    shutil.copytree(bundle, folder)
    manifest = read_manifest(folder)
    write_manifest(folder, manifest.model_copy(update={"generation": manifest.generation + 1}))
    return folder


def run(bundle: Path = Path("models/sample"), rate: float = 20.0, repeats: int = 5) -> Iterator[Row]:
    """Rows in the order in which they are measured: by the command, then over HTTP."""
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        folder = Path(place)
        (folder / "store").mkdir()
        following = next_generation(bundle, folder / "next")
        store = stack.enter_context(store_server(folder / "store"))
        settings = {"UNITOK_STORE": store.url, "UNITOK_BESIDE": json.dumps([str(following)])}
        replicas = [stack.enter_context(service(bundle, settings)) for _ in range(REPLICAS)]
        folders = {read_manifest(each).generation: each for each in (bundle, following)}

        def command(generation: int) -> None:
            unitok = str(Path(sys.executable).parent / "unitok")
            switch = [unitok, "catalogue", "switch", "--bundle", str(folders[generation])]
            environment = {**os.environ, "UNITOK_STORE": store.url}
            subprocess.run(switch, env=environment, check=True, stdout=subprocess.DEVNULL)

        def put(generation: int) -> None:
            body = {"generation": generation}
            httpx.put(f"{replicas[0].address}/generations/current", json=body).raise_for_status()

        for name, switch in (("unitok catalogue switch", command), ("PUT /generations/current", put)):
            load = Load(bundle, rate)
            yield from _rows(name, *asyncio.run(measure(replicas, list(folders), switch, load, repeats)), rate)


@dataclass(frozen=True, slots=True)
class Load:
    """What every replica is asked: recommendations after items of a bundle, so many times a second."""

    bundle: Path
    rate: float


async def measure(
    replicas: list[Served], generations: list[int], switch: Callable[[int], None], load: Load, repeats: int
) -> tuple[dict[str, list[Switch]], list[Watched]]:
    """Switch there and back under load, so many times."""
    watched = [Watched() for _ in replicas]
    first, second = generations
    pauses = random.Random(0)
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        for replica in replicas:
            await ready(client, replica, second)
        switch(first)
        ended = asyncio.Event()
        asking = [
            asyncio.create_task(ask(client, replica, load, mine, ended))
            for replica, mine in zip(replicas, watched, strict=True)
        ]
        await asyncio.sleep(PAUSES[0])
        taken: dict[int, list[Switch]] = {first: [], second: []}
        for wanted in [second, first] * repeats:
            taken[wanted].append(await followed(watched, wanted, switch))
            await asyncio.sleep(pauses.uniform(*PAUSES))
        ended.set()
        await asyncio.gather(*asking)
    return {"switch": taken[second], "switch back": taken[first]}, watched


async def followed(watched: list[Watched], wanted: int, switch: Callable[[int], None]) -> Switch:
    """Switch, and wait for the first answer by the wanted generation on the last replica.

    Raises
    ------
    TimeoutError : a replica does not follow
    """
    began = time.perf_counter()
    await asyncio.to_thread(switch, wanted)
    asking = time.perf_counter() - began
    async with asyncio.timeout(PATIENCE):
        while True:
            seen = [mine.first(wanted, began) for mine in watched]
            if None not in seen:
                return Switch(asking, max(at for at in seen if at is not None) - began)
            await asyncio.sleep(0.005)


async def ready(client: httpx.AsyncClient, replica: Served, generation: int) -> None:
    """Wait until a replica serves a generation that is not current yet."""
    headers = {PIN: str(generation)}
    async with asyncio.timeout(PATIENCE):
        while (await client.get(f"{replica.address}/readyz", headers=headers)).status_code != HTTPStatus.OK:
            await asyncio.sleep(0.05)


async def ask(client: httpx.AsyncClient, replica: Served, load: Load, mine: Watched, ended: asyncio.Event) -> None:
    """Ask a replica for recommendations at a steady rate, whatever the answers do, and note each."""

    async def one(path: str, body: bytes) -> None:
        headers = {"Content-Type": "application/json"}
        try:
            response = await client.post(replica.address + path, content=body, headers=headers)
        except httpx.TransportError as error:
            mine.failures.append(repr(error))
            return
        if response.status_code == HTTPStatus.OK and response.json()["items"]:
            mine.answers.append((time.perf_counter(), response.json()["generation"]))
        else:
            mine.failures.append(f"{response.status_code}: {response.text}")

    began, asked = time.perf_counter(), set[asyncio.Task[None]]()
    for number, call in zip(itertools.count(), calls(load.bundle)):
        if ended.is_set():
            break
        asked.add(asyncio.create_task(one(call.path, call.body)))
        await asyncio.sleep(max(0.0, began + number / load.rate - time.perf_counter()))
    await asyncio.gather(*asked)


def _rows(name: str, switches: dict[str, list[Switch]], watched: list[Watched], rate: float) -> Iterator[Row]:
    for what, made in switches.items():
        followed = [each.followed for each in made]
        asking = statistics.median(each.asking for each in made)
        note = f"{REPLICAS} replicas, each asked {rate:g} times a second; longest {max(followed):.2f} s; "
        note += f"{name} itself took {asking:.2f} s"
        yield Row(f"{what} by {name}", statistics.median(followed), "s", note=note, goal=MOST_SECONDS)
    failures = [failure for mine in watched for failure in mine.failures]
    answered = sum(len(mine.answers) for mine in watched)
    note = failures[0] if failures else f"{answered} answered"
    yield Row(f"failed requests meanwhile, {name}", len(failures), "count", note=note, goal=0)
