"""Filling an embedded store by Ray's workers beside filling it in one process: how long each takes, and with what end.

The two take turns, each into stores of its own. On one machine Ray can only cost; what it is for is several.

    python -m benchmarks backfill-engines
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.backfill import write_items
from benchmarks.rows import Row
from service.bundle.files import Bundle
from service.catalogue.seeding import open_catalogue


def run(items: int = 5_000, bundle: Path = Path("models/sample"), workers: int = 2, repeats: int = 2) -> Iterator[Row]:
    """Rows in the order in which they are measured."""
    opened, engines = Bundle.open(bundle), {"local": [], "ray": ["--workers", str(workers)]}
    seconds: dict[str, list[float]] = {engine: [] for engine in engines}
    differing = 0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "items.parquet"
        write_items(file, "texts", items, width=0)
        for repeat in range(repeats):
            filled = []
            for engine, more in engines.items():
                url = f"embedded:{folder}/{engine}-{repeat}"
                open_catalogue(url, opened).close()
                command = [sys.executable, "-m", "service.cli.main", "backfill", str(file), "--skip-bad"]
                command += ["--domain", "bench", "--bundle", str(bundle), "--store", url, "--engine", engine, *more]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                seconds[engine].append(float(json.loads(done.stdout)["seconds"]))
                store = open_catalogue(url, opened)
                filled.append({item.key: item for batch in store.scan() for item in batch})
                store.close()
            differing += sum(filled[0].get(key) != filled[1].get(key) for key in filled[0].keys() | filled[1].keys())
    of = f"backfill of {items:,} texts into an embedded store"
    local, ray = (statistics.median(seconds[engine]) for engine in engines)
    yield Row(f"{of}, one process", local, "s", note=f"median of {repeats}")
    yield Row(f"{of}, Ray with {workers} workers", ray, "s", local, "one process; starting the workers included")
    yield Row(f"{of}, items that the two stored differently", differing, "count", goal=0)
