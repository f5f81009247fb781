"""Benchmarks against peers and limits: one table, and the same rows as JSON lines.

    python -m benchmarks                                    # the short form of all: ten minutes at most (make bench)
    python -m benchmarks --full                             # the full form: an hour or more (make bench-full)
    python -m benchmarks --list
    python -m benchmarks search-10k 'text-*'                # some of them
    python -m benchmarks search-10k --with threads=1 clock=processor 'batches=[1, 8]'

Rows take the place of earlier ones of the same name in `benchmarks/results.jsonl`, or in the file that `--results`
names.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.registry import BENCHMARKS, Benchmark, chosen, given
from benchmarks.rows import RESULTS, machine, record, report, write_records
from benchmarks.running import run_apart

SHORT_SECONDS = 570.0
"""Of the whole short form; with the table and what ending takes, it stays below ten minutes."""
SHORT_EACH, FULL_EACH = 150.0, 3600.0
"""Most seconds of one benchmark."""


def main() -> int:
    """Run what is asked for; 1 if something did not come to its end."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="a benchmark, or a pattern such as 'search-*'")
    parser.add_argument("--list", action="store_true", help="name every benchmark")
    parser.add_argument("--full", action="store_true", help="the full form")
    parser.add_argument("--with", nargs="+", default=[], dest="pairs", metavar="KEY=VALUE", help="arguments")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    try:
        benchmarks, arguments = chosen(asked.names, asked.full), given(asked.pairs)
    except ValueError as error:
        parser.error(str(error))
    if asked.list:
        _list(benchmarks)
        return 0
    if asked.into:
        (benchmark,) = benchmarks
        with asked.into.open("a", encoding="utf-8", buffering=1) as file:
            for row in benchmark.resolve()(**benchmark.arguments(asked.full, arguments)):
                file.write(json.dumps(asdict(row)) + "\n")
        return 0
    options = [*(["--full"] * asked.full), *(["--with", *asked.pairs] if asked.pairs else [])]
    return _run_all(benchmarks, options, asked.full, asked.results)


def _list(benchmarks: list[Benchmark]) -> None:
    for each in benchmarks:
        print(f"{each.name:20} {each.function:28} short: {json.dumps(each.short)} full: {json.dumps(each.full)}")


def _run_all(benchmarks: list[Benchmark], options: list[str], full: bool, results: Path) -> int:
    where = machine() | {"form": "full" if full else "short", "options": options}
    until = time.monotonic() + (len(BENCHMARKS) * FULL_EACH if full else SHORT_SECONDS)
    rows, problems = [], []
    for benchmark in benchmarks:
        print(f"{benchmark.name} ...", file=sys.stderr, flush=True)
        left = until - time.monotonic()
        run = run_apart(benchmark, options, min(left, FULL_EACH if full else SHORT_EACH))
        print(f"{benchmark.name}: {len(run.rows)} rows in {run.seconds:.0f} s", file=sys.stderr, flush=True)
        write_records((record(row, benchmark=benchmark.name, **where) for row in run.rows), results)
        rows += run.rows
        if run.problem:
            problems.append(f"{benchmark.name}: {run.problem}")
    report(rows)
    verdicts = [row.met for row in rows]
    print(f"{len(rows)} rows in {results}; goals met: {verdicts.count(True)}, not met: {verdicts.count(False)}")
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
