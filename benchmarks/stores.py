"""What a catalogue costs: memory an item in both stores, rates of writing, time to load it, recover it and prove it.

Takes minutes, so it runs by itself: `python -m benchmarks.stores --items 1000000`. The server is a real one on this
machine that syncs every write before it answers. Prints one line of JSON a store.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks.catalogues import LAYOUT, random_items
from benchmarks.processes import store_server
from benchmarks.rows import machine
from service.catalogue.checking import examine
from service.catalogue.live import LiveCatalogue
from service.catalogue.opening import open_store
from service.catalogue.store import CatalogueStore, NewItem, StoredItem

REGISTERED = 20_000
REGISTER_BATCH = 100
RESTORE_BATCH = 1000

Done = TypeVar("Done")


def main() -> None:
    """Measure one store after the other, or, asked by itself, load one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--load", metavar="URL", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        print(json.dumps(load(open_store(arguments.load, "bench", 1, LAYOUT))))
        return
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(measure(f"embedded:{name}", arguments.items) | machine()), flush=True)
        with store_server(Path(name)) as server:
            found = measure(server.url, arguments.items)
            print(json.dumps(found | {"restart_seconds": timed(server.restart)[1]} | machine()), flush=True)


def measure(url: str, items: int) -> dict[str, object]:
    """Fill a store, then weigh, load and examine it."""
    store = open_store(url, "bench", 1, LAYOUT)
    store.finish_seed()
    before = store.status().bytes
    values = LAYOUT.values(random_items(items, np.random.default_rng(0)))
    _, registering = timed(lambda: register(store, values[:REGISTERED]))
    _, restoring = timed(lambda: restore(store, values[REGISTERED:]))
    size = (store.status().bytes - before) / items
    found, examining = timed(lambda: examine(store))
    assert not found.findings
    loading = subprocess.run(
        [sys.executable, "-m", "benchmarks.stores", "--load", url], check=True, capture_output=True, text=True
    )
    store.close()
    return {
        "store": url.partition(":")[0],
        "items": items,
        "registered_a_second": round(min(items, REGISTERED) / registering),
        "restored_a_second": round((items - REGISTERED) / restoring) if items > REGISTERED else None,
        "bytes_an_item": round(size, 1),
        "examine_seconds": round(examining, 1),
        **json.loads(loading.stdout),
    }


def register(store: CatalogueStore, values: np.ndarray) -> None:
    """Register items in batches of a hundred, as a busy service does."""
    for first in range(0, len(values), REGISTER_BATCH):
        store.register(
            [
                NewItem("shop", f"item-{first + at:08}", tuple(row[:4]), (row[4],), title(first + at))
                for at, row in enumerate(values[first : first + REGISTER_BATCH].tolist())
            ]
        )


def restore(store: CatalogueStore, values: np.ndarray) -> None:
    """Put items in with the IDs they have, as an import does."""
    packed = np.sort(LAYOUT.pack(values)).tolist()
    for first in range(0, len(packed), RESTORE_BATCH):
        numbers = range(first, min(first + RESTORE_BATCH, len(packed)))
        store.restore(
            [StoredItem("shop", f"item-{REGISTERED + at:08}", packed[at], title(REGISTERED + at)) for at in numbers]
        )


def title(number: int) -> str:
    """About forty letters."""
    return f"A title of about forty letters, no. {number:08}"


def load(store: CatalogueStore) -> dict[str, float]:
    """Seconds to load a catalogue into a service and to compare fingerprints, and the memory it takes there."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    live, loading = timed(lambda: LiveCatalogue(store))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _, comparing = timed(live.compare)
    store.close()
    items = sum(live.domains().values())
    return {
        "load_seconds": round(loading, 2),
        "service_bytes_an_item": round((after - before) * 1024 / items, 1),
        "compare_seconds": round(comparing, 4),
    }


def timed(work: Callable[[], Done]) -> tuple[Done, float]:
    """What a piece of work returns, and the seconds it took."""
    started = time.perf_counter()
    done = work()
    return done, round(time.perf_counter() - started, 4)


if __name__ == "__main__":
    main()
