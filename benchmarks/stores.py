"""What a catalogue costs: memory an item in both stores, rates of writing, time to load it, recover it and prove it.

The server is a real one on this machine that syncs every write before it answers. Run by itself, the module loads one
store and says what that took, so that the memory is that of a fresh process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks.catalogues import LAYOUT, random_items, work_folder
from benchmarks.processes import resident_bytes, store_server
from benchmarks.rows import Row
from service.catalogue.checking import examine
from service.catalogue.live import LiveCatalogue
from service.catalogue.opening import open_store
from service.catalogue.records import NewItem, StoredItem
from service.catalogue.store import CatalogueStore

REGISTERED = 20_000
REGISTER_BATCH = 100
RESTORE_BATCH = 1000

Done = TypeVar("Done")


def embedded(items: int = 100_000) -> list[Row]:
    """The store without a server."""
    with tempfile.TemporaryDirectory(dir=work_folder()) as name:
        return measure(f"embedded:{name}", items)


def redis(items: int = 100_000) -> Iterator[Row]:
    """A store server, killed in the end."""
    with tempfile.TemporaryDirectory(dir=work_folder()) as name, store_server(Path(name)) as server:
        yield from measure(server.url, items)
        _, seconds = timed(server.restart)
        yield Row(f"redis, {items:,} items: answering again after SIGKILL", seconds, "s")


def measure(url: str, items: int) -> list[Row]:
    """Fill a store, then weigh, load and examine it."""
    store = open_store(url, "bench", 1, LAYOUT)
    store.finish_seed()
    before = store.status().bytes
    values = LAYOUT.values(random_items(items, np.random.default_rng(0)))
    first, rest = values[: min(REGISTERED, items // 2)], values[min(REGISTERED, items // 2) :]
    _, registering = timed(lambda: register(store, first))
    _, restoring = timed(lambda: restore(store, rest))
    size = (store.status().bytes - before) / items
    found, examining = timed(lambda: examine(store))
    assert not found.findings
    loading = subprocess.run(
        [sys.executable, "-m", "benchmarks.stores", url], check=True, stdout=subprocess.PIPE, text=True
    )
    store.close()
    loaded = json.loads(loading.stdout)
    of = f"{url.partition(':')[0]}, {items:,} items"
    return [
        Row(f"{of}: register, batches of {REGISTER_BATCH}", len(first) / registering, "items/s"),
        Row(f"{of}: put back, batches of {RESTORE_BATCH:,}", len(rest) / restoring, "items/s"),
        Row(f"{of}: stored, change log included", size, "bytes"),
        Row(f"{of}: examine", examining, "s"),
        Row(f"{of}: load into a service", loaded["load_seconds"], "s"),
        Row(f"{of}: in the service, table and index", loaded["service_bytes_an_item"], "bytes"),
        Row(f"{of}: compare fingerprints", 1e3 * loaded["compare_seconds"], "ms"),
    ]


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
    # Not the greatest there ever was: a process inherits that of the one that starts it.
    before = resident_bytes(os.getpid())
    live, loading = timed(lambda: LiveCatalogue(store))
    after = resident_bytes(os.getpid())
    _, comparing = timed(live.compare)
    store.close()
    items = sum(live.domains().values())
    return {
        "load_seconds": round(loading, 2),
        "service_bytes_an_item": round((after - before) / items, 1),
        "compare_seconds": round(comparing, 4),
    }


def timed(work: Callable[[], Done]) -> tuple[Done, float]:
    """What a piece of work returns, and the seconds it took."""
    started = time.perf_counter()
    done = work()
    return done, round(time.perf_counter() - started, 4)


if __name__ == "__main__":
    print(json.dumps(load(open_store(sys.argv[1], "bench", 1, LAYOUT))))
