"""Two replicas on one store: how soon does one recommend what the other acknowledged, and no more what it deleted?

Real services and a real store server: `python -m benchmarks replicas [--full]`. An item counts as recommendable when
`/recommend` of the other replica, allowed that item alone, answers with it.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np

from benchmarks.invented import titles
from benchmarks.processes import service, store_server
from benchmarks.rows import Row

MOST_SECONDS = 1.0
PATIENCE = 30.0
"""Seconds after which an item that does not arrive is given up."""

DOMAIN = "replicas"


def run(bundle: Path = Path("models/sample"), count: int = 50) -> Iterator[Row]:
    """Rows in the order in which they are measured."""
    with tempfile.TemporaryDirectory() as folder, store_server(Path(folder)) as store:
        settings = {"UNITOK_STORE": store.url}
        with (
            service(bundle, settings) as here,
            service(bundle, settings) as there,
            httpx.Client(base_url=here.address) as writer,
            httpx.Client(base_url=there.address) as reader,
        ):
            _wait(lambda: reader.get("/readyz").is_success)
            # One that stays: the domain of the others is known while none of them is there.
            writer.put(f"/items/{DOMAIN}/stays", json={"title": "stays"}).raise_for_status()
            _wait(lambda: _asked(reader, "stays") == ["stays"])
            arrived, left = [], []
            for number, text in enumerate(titles(count, np.random.default_rng(3))):
                name = str(number)
                writer.put(f"/items/{DOMAIN}/{name}", json={"title": text}).raise_for_status()
                arrived.append(_until_asked(reader, name, [name]))
                writer.delete(f"/items/{DOMAIN}/{name}").raise_for_status()
                left.append(_until_asked(reader, name, []))
    for what, taken in (
        ("registered on one replica, recommended", arrived),
        ("deleted on one replica, no more recommended", left),
    ):
        note = f"longest of {count}, from the answer of the one on; median {statistics.median(taken):.2f} s"
        yield Row(f"{what} by the other", max(taken), "s", note=note, goal=MOST_SECONDS)


def _until_asked(reader: httpx.Client, name: str, found: list[str]) -> float:
    """Seconds until a replica that may recommend one item alone answers with these."""
    return _wait(lambda: _asked(reader, name) == found)


def _asked(reader: httpx.Client, name: str) -> list[str] | None:
    """What a replica recommends that may recommend one item alone; None if it refuses, as for an unknown domain."""
    allowed = [{"domain": DOMAIN, "item_id": name}]
    response = reader.post(
        "/recommend", json={"history": [{"domain": DOMAIN, "title": "any"}], "allow": allowed, "k": 1}
    )
    return [each["item_id"] for each in response.json()["items"]] if response.is_success else None


def _wait(condition: Callable[[], bool]) -> float:
    """Seconds until a condition holds.

    Raises
    ------
    TimeoutError : it does not
    """
    began = time.perf_counter()
    while not condition():
        if time.perf_counter() - began > PATIENCE:
            raise TimeoutError(f"nothing arrived within {PATIENCE:g} s")
        time.sleep(0.005)
    return time.perf_counter() - began
