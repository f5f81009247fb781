"""A measured row, the table for people, and the JSON line for machines. Knows nothing of what is measured."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from training.laboratory.provenance import commit

RESULTS = Path(__file__).parent / "results.jsonl"


@dataclass(frozen=True)
class Row:
    """One figure beside its peer's.

    Attributes
    ----------
    measure : what, and on what
    ours, peer : in `unit`; peer None where only a limit is stated in `note`
    unit : `ms` and `us` (less is better) or `items/s` and the like (more is better)
    note : who the peer is, or what the limit is
    """

    measure: str
    ours: float
    unit: str
    peer: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times better ours is than the peer."""
        if self.peer is None:
            return None
        return self.peer / self.ours if self.unit in {"ms", "us", "s", "bytes"} else self.ours / self.peer


def medians(repeats: int, *sides: Callable[[], object]) -> list[float]:
    """Median seconds of each side, called in turns so that other load hits all; one call each to warm up."""
    taken: list[list[float]] = [[] for _ in sides]
    for repeat in range(repeats + 1):
        for side, times in zip(sides, taken, strict=True):
            started = time.perf_counter()
            side()
            if repeat:
                times.append(time.perf_counter() - started)
    return [statistics.median(times) for times in taken]


def machine() -> dict[str, str]:
    """What the figures were measured on, and which commit."""
    model = ""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = f"{len(names)} x {names[0]}" if names else ""
    return {"commit": commit(), "machine": model or platform.machine(), "python": platform.python_version()}


def report(rows: list[Row]) -> None:
    """Print the table and append the rows to `benchmarks/results.jsonl`."""
    table = Table("measure", "ours", "peer", "unit", "ratio", "peer or limit")
    where = machine()
    with RESULTS.open("a", encoding="utf-8") as file:
        for row in rows:
            peer = "-" if row.peer is None else f"{row.peer:,.4g}"
            ratio = "-" if row.ratio is None else f"{row.ratio:.2f} x"
            table.add_row(row.measure, f"{row.ours:,.4g}", peer, row.unit, ratio, row.note)
            file.write(json.dumps({**asdict(row), "ratio": row.ratio, **where}) + "\n")
    Console().print(table)
