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

Clock = Callable[[], float]
"""Seconds from some start: `time.perf_counter`, or `time.process_time` where other work shares the cores."""

CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "processor": time.process_time}
LESS_IS_BETTER = frozenset({"ms", "us", "s", "bytes", "MB/h", "count"})
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
    goal : least ratio to reach, or without a peer: what `ours` should reach
    """

    measure: str
    ours: float
    unit: str
    peer: float | None = None
    note: str = ""
    goal: float | None = None

    @property
    def ratio(self) -> float | None:
        """How many times better ours is than the peer."""
        if self.peer is None:
            return None
        return self.peer / self.ours if self.unit in LESS_IS_BETTER else self.ours / self.peer

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None where there is none."""
        if self.goal is None:
            return None
        if self.ratio is not None:
            return self.ratio >= self.goal
        return self.ours <= self.goal if self.unit in LESS_IS_BETTER else self.ours >= self.goal


def medians(repeats: int, *sides: Callable[[], object], clock: Clock = time.perf_counter) -> list[float]:
    """Median seconds of each side, called in turns so that other load hits all; one call each to warm up."""
    taken: list[list[float]] = [[] for _ in sides]
    for repeat in range(repeats + 1):
        for side, times in zip(sides, taken, strict=True):
            started = clock()
            side()
            if repeat:
                times.append(clock() - started)
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
    table = Table("measure", "ours", "peer", "unit", "ratio", "goal", "met", "peer or limit")
    where = machine()
    with RESULTS.open("a", encoding="utf-8") as file:
        for row in rows:
            peer = "-" if row.peer is None else f"{row.peer:,.4g}"
            ratio = "-" if row.ratio is None else f"{row.ratio:.2f} x"
            goal = "-" if row.goal is None else f"{row.goal:,.4g}"
            met = {None: "-", True: "yes", False: "no"}[row.met]
            table.add_row(row.measure, f"{row.ours:,.4g}", peer, row.unit, ratio, goal, met, row.note)
            file.write(json.dumps({**asdict(row), "ratio": row.ratio, "met": row.met, **where}) + "\n")
    Console().print(table)
