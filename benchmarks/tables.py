"""Tables of the file of rows, in docs/benchmarks.md: every figure with its commit and its machine.

    python -m benchmarks.tables        # benchmarks/results.jsonl -> docs/benchmarks.md, between the comments

A place is `<!-- python -m benchmarks.tables NAME -->`; `TABLES` says what goes into which.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from benchmarks.registry import BENCHMARKS
from benchmarks.rows import COLUMNS, cells, read_records, row_of
from training.laboratory.documents import filled, tables_in
from training.stage import write_atomically

DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks.md"
HEAD = ("benchmark", *COLUMNS, "commit", "machine")
ELSEWHERE = frozenset(
    {"http-layers", "search-gpu", "serve-gpu", "soak", "store-embedded", "store-redis", "backfill-engines"}
)
"""Benchmarks whose rows stand in other sections, told in their own way."""

TABLES = {
    "goals": lambda record: record["goal"] is not None and record["benchmark"] not in ELSEWHERE,
    "rows": lambda record: record["goal"] is None and record["benchmark"] not in ELSEWHERE,
}
"""What of the file goes into which table."""

Record = Mapping[str, Any]


def table(records: Iterable[Record]) -> str:
    """Records as Markdown, by benchmark in the order of the registry; machines are letters, explained below."""
    order = {benchmark.name: number for number, benchmark in enumerate(BENCHMARKS)}
    rows = sorted(records, key=lambda record: order.get(record["benchmark"], len(order)))
    letters: dict[str, str] = {}
    for record in rows:
        letters.setdefault(record["machine"], ascii_uppercase[len(letters)])
    lines = [_line(HEAD), _line(["---"] * len(HEAD))]
    lines += [_line(_cells(record, letters[record["machine"]])) for record in rows]
    machines = "; ".join(f"{letter}: {machine}" for machine, letter in letters.items())
    return "\n".join([*lines, "", f"Machines: {machines}."])


def _cells(record: Record, machine: str) -> list[str]:
    said = ["**no**" if cell == "no" else cell for cell in cells(row_of(dict(record)))]
    return [f"`{record['benchmark']}`", *said, record["commit"], machine]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Fill the places of the document; 1 if it has one that nothing goes into."""
    text, records = DOCUMENT.read_text(encoding="utf-8"), read_records()
    unknown = set(tables_in(text, DOCUMENT.name)) - set(TABLES)
    if unknown:
        print(f"{DOCUMENT}: no table is called {', '.join(sorted(unknown))}", file=sys.stderr)
        return 1
    tables = {name: table(filter(chosen, records)) for name, chosen in TABLES.items()}
    write_atomically(DOCUMENT, filled(text, tables, DOCUMENT.name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
