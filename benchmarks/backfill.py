"""Filling a catalogue in Redis from a file, as the command does it: embeddings or texts, to IDs, to the store.

The file is made first; what is measured is `unitok backfill` in a process of its own, beside a store server that syncs
every batch. Each row says how much of the processor both used meanwhile: above 1, reading, encoding and storing ran at
the same time. Memory is that of the command at a quarter of the way and at the end.

    python -m benchmarks backfill-embeddings             # 50,000 of them
    python -m benchmarks 'backfill-*' --full             # a million each: minutes, and a file of 0.6 GB
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.invented import titles
from benchmarks.large_bundle import large_bundle
from benchmarks.processes import StoreServer, processor_seconds, resident_bytes, store_server
from benchmarks.rows import Row
from service.bundle.files import Bundle

GOAL_SECONDS = {"embeddings": 120.0, "texts": 300.0}
"""For a million items on two cores."""

STEADY = 500_000
"""Items from which a quarter of the way is past the start of the command, so that its memory says something."""

SAMPLE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Filled:
    """One run of the command.

    Attributes
    ----------
    said : what it reported
    seconds : by the clock, its start included
    early, late : bytes of memory at a quarter of the way, and the most in the last quarter
    worked, served : seconds of the processor that the command and the server took
    """

    said: dict[str, object]
    seconds: float
    early: int
    late: int
    worked: float
    served: float


def write_items(path: Path, kind: str, items: int, width: int) -> None:
    """Items with random unit vectors, or with invented titles."""
    random = np.random.default_rng(0)
    columns = [pl.Series("item_id", [f"item-{number:08}" for number in range(items)])]
    if kind == "embeddings":
        vectors = random.standard_normal((items, width), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        columns.append(pl.Series("embedding", vectors).cast(pl.List(pl.Float32)))
    else:
        columns.append(pl.Series("title", titles(items, random)))
    pl.DataFrame(columns).write_parquet(path, row_group_size=50_000)


def fill(bundle: Path, file: Path, server: StoreServer, batch: int) -> Filled:
    """Run the command on a file, and watch it."""
    command = [str(Path(sys.executable).parent / "unitok"), "backfill", str(file), "--domain", "bench", "--skip-bad"]
    command += ["--bundle", str(bundle), "--batch", str(batch)]
    began, served = time.perf_counter(), processor_seconds(server.pid)
    held: list[int] = []
    worked = 0.0
    environment = {**os.environ, "UNITOK_STORE": server.url}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            try:
                held.append(resident_bytes(process.pid))
                worked = processor_seconds(process.pid)
            except (RuntimeError, OSError):
                break  # It has just ended.
            time.sleep(SAMPLE_SECONDS)
        said, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}")
    quarter = len(held) // 4
    return Filled(
        said=json.loads(said),
        seconds=time.perf_counter() - began,
        early=held[quarter],
        late=max(held[-max(1, quarter) :]),
        worked=worked,
        served=processor_seconds(server.pid) - served,
    )


def run(
    kind: str = "embeddings", items: int = 50_000, folder: Path = Path("work/large"), batch: int = 512
) -> list[Row]:
    """Fill an empty store once."""
    bundle = large_bundle(folder)
    width = Bundle.open(bundle).manifest.item_tokenizer.embedding_width
    with tempfile.TemporaryDirectory() as name, store_server(Path(name)) as server:
        file = Path(name) / f"{kind}.parquet"
        write_items(file, kind, items, width)
        filled = fill(bundle, file, server, batch)
    of = f"backfill of {items:,} {kind} into Redis"
    goal = GOAL_SECONDS[kind] * items / 1e6
    created = filled.said["created"]
    cores = (filled.worked + filled.served) / filled.seconds
    return [
        Row(of, filled.seconds, "s", note=f"{created:,} created, the rest refused for full groups", goal=goal),
        Row(f"{of}, rate", items / filled.seconds, "items/s", goal=items / goal),
        Row(
            f"{of}, cores in use",
            cores,
            "cores",
            note=f"{filled.worked:.1f} s of the processor for the command, {filled.served:.1f} s for the server",
        ),
        Row(
            f"{of}, memory at the end beside that at a quarter",
            filled.late,
            "bytes",
            filled.early,
            "at a quarter of the way",
            0.9 if items >= STEADY else None,
        ),
    ]
