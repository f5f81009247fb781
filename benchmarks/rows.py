"""A measured row, the file of rows and the table for people. Knows nothing of what is measured.

Symbols: ours and peer are in the row's unit.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from training.laboratory.checkout import commit
from training.stage import write_atomically

Clock = Callable[[], float]
"""Seconds from some start: `time.perf_counter`, or `time.process_time` where other work shares the cores."""

CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "processor": time.process_time}
LESS_IS_BETTER = frozenset({"ms", "us", "s", "bytes", "MB/h", "count"})
REST = 0.3
TURN = 0.2
"""Seconds."""
RESULTS = Path(__file__).parent / "results.jsonl"
COLUMNS = ("measure", "ours", "peer", "unit", "ratio", "goal", "met", "peer, limit or note")
"""Of a table of rows."""
PAGE = 170
"""Columns of the table where it goes to a file."""


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
    curve, at : the line of a plot that the row is a point of, and where on its axis
    """

    measure: str
    ours: float
    unit: str
    peer: float | None = None
    note: str = ""
    goal: float | None = None
    curve: str = ""
    at: float | None = None

    @property
    def ratio(self) -> float | None:
        """How many times better ours is than the peer; None without a peer, or where a side is 0."""
        if self.peer is None or not self.peer or not self.ours:
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


def row_of(record: dict[str, Any]) -> Row:
    """The row of a line of JSON, whatever else the line says."""
    return Row(**{field.name: record[field.name] for field in fields(Row) if field.name in record})


def medians(repeats: int, *sides: Callable[[], object], clock: Clock = time.perf_counter, warm: int = 1) -> list[float]:
    """Median seconds of each side, called in turns so that other load hits all.

    Parameters
    ----------
    repeats : calls of each side that count
    warm : calls before them that do not
    """
    taken: list[list[float]] = [[] for _ in sides]
    for repeat in range(repeats + warm):
        for side, times in zip(sides, taken, strict=True):
            started = clock()
            side()
            if repeat >= warm:
                times.append(clock() - started)
    return [statistics.median(times) for times in taken]


def steady(repeats: int, *sides: Callable[[], object], clock: Clock = time.perf_counter) -> list[float]:
    """As `medians`, each side as it is when it has the machine to itself, call after call.

    A turn is a moment's rest, a call that does not count, and the median of as many calls as `TURN` holds, one at
    least. Without that a side pays for what the one before it left: cold caches, and threads of OpenMP, which spin for
    200 ms after their last loop on a core that this one needs.
    """
    taken: list[list[float]] = [[] for _ in sides]
    for _ in range(repeats):
        for side, times in zip(sides, taken, strict=True):
            time.sleep(REST)
            side()
            turn: list[float] = []
            while sum(turn) < TURN:
                started = clock()
                side()
                turn.append(clock() - started)
            times.append(statistics.median(turn))
    return [statistics.median(times) for times in taken]


def machine() -> dict[str, Any]:
    """What the figures were measured on, which commit, and how busy the machine had been for a minute."""
    model = ""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = [line.split(":", 1) for line in info.read_text().splitlines() if ":" in line]
        said = {name.strip(): value.strip() for name, value in lines}
        cores = sum(name.strip() == "model name" for name, _ in lines)
        # Virtual machines often hide the model's name, and products in 512 bits take half the time of those in 256.
        wide = "AVX-512" if "avx512f" in said.get("flags", "").split() else "no AVX-512"
        model = f"{cores} x {said['model name']}, family {said.get('cpu family', '?')}, {wide}" if cores else ""
    return {
        "commit": commit(),
        "machine": model or platform.machine(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
    }


def read_records(path: Path = RESULTS) -> list[dict[str, Any]]:
    """The lines of a file of rows; none where there is no file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def write_records(found: Iterable[dict[str, Any]], path: Path = RESULTS) -> None:
    """Put rows into the file, each in the place of what the same benchmark said of the same measure before."""
    kept = {(record["benchmark"], record["measure"]): record for record in read_records(path)}
    kept |= {(record["benchmark"], record["measure"]): record for record in found}
    write_atomically(path, "".join(json.dumps(kept[key]) + "\n" for key in sorted(kept)))


def record(row: Row, **where: Any) -> dict[str, Any]:
    """A line of the file: the row, what follows from it, and where it was measured."""
    return {**asdict(row), "ratio": row.ratio, "met": row.met, **where}


def report(rows: Iterable[Row]) -> None:
    """Print rows for people."""
    console = Console()
    if not console.is_terminal:
        console.width = PAGE
    shown = Table("measure", box=box.MARKDOWN)
    for name in COLUMNS[1:-1]:
        shown.add_column(name, no_wrap=True)
    shown.add_column("peer or limit")
    for row in rows:
        shown.add_row(*cells(row))
    console.print(shown)


def cells(row: Row) -> list[str]:
    """What a table says of a row, as `COLUMNS`."""
    return [
        row.measure,
        _number(row.ours),
        _number(row.peer),
        row.unit,
        "-" if row.ratio is None else f"{row.ratio:.2f} x",
        _number(row.goal),
        {None: "-", True: "yes", False: "no"}[row.met],
        row.note,
    ]


def _number(value: float | None) -> str:
    """Four digits, or all before the point where there are more."""
    return "-" if value is None else f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
