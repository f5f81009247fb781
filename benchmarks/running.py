"""Runs benchmarks one after the other, each in a process of its own with so much time and no more.

A benchmark that fails, hangs or fills the memory takes none of the others with it; the rows it had measured stay. Knows
nothing of what is measured.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.registry import Benchmark
from benchmarks.rows import Row, read_records, row_of


@dataclass(frozen=True)
class Run:
    """What became of one benchmark: its rows, the seconds it took, and what kept it from its end, if anything did."""

    rows: list[Row]
    seconds: float
    problem: str | None


def run_apart(benchmark: Benchmark, options: Sequence[str], seconds: float) -> Run:
    """Run a benchmark in a process of its own, for so many seconds at most; then it and all it started are ended.

    Parameters
    ----------
    options : form and arguments, as on the command line of `python -m benchmarks`
    """
    if seconds <= 0:
        return Run([], 0.0, "not begun, since the time of the whole run was up")
    with tempfile.TemporaryDirectory() as folder:
        into = Path(folder) / "rows.jsonl"
        into.touch()
        command = [sys.executable, "-m", "benchmarks", benchmark.name, "--into", str(into), *options]
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=sys.stderr, start_new_session=True)
        problem = None
        try:
            if process.wait(seconds):
                problem = f"ended with status {process.returncode}; what it said stands above"
        except subprocess.TimeoutExpired:
            problem = f"not finished after {seconds:.0f} s"
        finally:
            # Also what it has started and not ended: servers, writers.
            _kill_group(process)
        rows = [row_of(said) for said in read_records(into)]
    return Run(rows, time.monotonic() - started, problem)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
