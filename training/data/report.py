"""The report on bad data: what kind, in which file, row and field, and why.

Every problem is counted; the first few of each kind and domain are kept as examples. Knows nothing of how problems
are found.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from service.errors import InvalidInput
from training.stage import write_atomically

REPORT = "report.json"
EXAMPLES = 20
"""Examples kept of each kind and domain unless asked for more."""


class Kind(StrEnum):
    """Kinds of problems."""

    MISSING_COLUMN = "missing column"
    MALFORMED_LINE = "malformed line"
    BROKEN_ENCODING = "broken encoding"
    MISSING_VALUE = "missing value"
    BAD_NUMBER = "bad number"
    BAD_ITEM_ID = "bad item id"
    DUPLICATE_ITEM = "duplicate item"
    ITEM_WITHOUT_TEXT = "item without any text"
    UNKNOWN_ITEM = "interaction of an unknown item"
    SHORT_HISTORY = "user with too short a history"
    EMPTY_DOMAIN = "empty domain"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the input.

    Attributes
    ----------
    kind : what kind of problem
    file : the source file, empty where the problem is not one file's
    row : line number of a text file, row number of a Parquet file, both from 1
    field : the column or key as the source names it
    reason : what was found there, and what would be right
    """

    kind: Kind
    file: str
    row: int | None
    field: str | None
    reason: str

    def __str__(self) -> str:
        row = None if self.row is None else f"row {self.row}"
        return ": ".join([*filter(None, [", ".join(filter(None, [self.file, row, self.field])), self.reason])])


@dataclass
class Findings:
    """What was found in one domain.

    Attributes
    ----------
    domain : its name
    limit : examples kept of each kind
    problems : counts that stop the stage unless bad data is skipped
    notices : counts of what is worth knowing and stops nothing
    examples : the first of each kind, of problems and notices together
    """

    domain: str
    limit: int = EXAMPLES
    problems: Counter[Kind] = field(default_factory=Counter)
    notices: Counter[Kind] = field(default_factory=Counter)
    examples: dict[Kind, list[Problem]] = field(default_factory=dict)

    def add(self, problem: Problem, notice: bool = False) -> None:
        """Count one problem."""
        self.add_many(problem.kind, 1, [problem], notice)

    def add_many(self, kind: Kind, count: int, examples: Iterable[Problem], notice: bool = False) -> None:
        """Count many problems of a kind at once; of the examples no more than the limit are looked at."""
        (self.notices if notice else self.problems)[kind] += count
        kept = self.examples.setdefault(kind, [])
        for problem in examples:
            if len(kept) >= self.limit:
                break
            kept.append(problem)


@dataclass(frozen=True)
class Report:
    """What was found in every domain."""

    domains: tuple[Findings, ...]

    @property
    def problems(self) -> Counter[Kind]:
        """Problems of every kind over all domains."""
        return sum((findings.problems for findings in self.domains), Counter())

    @property
    def notices(self) -> Counter[Kind]:
        """Notices of every kind over all domains."""
        return sum((findings.notices for findings in self.domains), Counter())

    def as_json(self) -> dict[str, Any]:
        """The report as it is written: every kind has its count, zero included."""
        return {
            "problems": {kind.value: self.problems[kind] for kind in Kind},
            "notices": {kind.value: self.notices[kind] for kind in Kind},
            "domains": {
                findings.domain: {
                    "problems": {kind.value: count for kind, count in findings.problems.items()},
                    "notices": {kind.value: count for kind, count in findings.notices.items()},
                    "examples": [asdict(problem) for kept in findings.examples.values() for problem in kept],
                }
                for findings in self.domains
            },
        }

    def write(self, folder: Path) -> None:
        """Write `report.json`."""
        write_atomically(folder / REPORT, json.dumps(self.as_json(), indent=2, ensure_ascii=False) + "\n")

    def table(self) -> str:
        """One line a domain and kind of problem: how many, and the first of them."""
        lines = [("domain", "kind", "count", "first")]
        for findings in self.domains:
            for kind, count in findings.problems.items():
                kept = findings.examples.get(kind)
                lines.append((findings.domain, kind.value, f"{count:,}", str(kept[0]) if kept else ""))
        widths = [max(len(line[column]) for line in lines) for column in range(3)]
        return "\n".join(
            f"{domain:<{widths[0]}}  {kind:<{widths[1]}}  {count:>{widths[2]}}  {first}"
            for domain, kind, count, first in lines
        )

    def stop_if_bad(self, folder: Path) -> None:
        """Stop if there is any problem.

        Raises
        ------
        InvalidInput : with the table of problems
        """
        total = self.problems.total()
        if total:
            raise InvalidInput(
                f"{total:,} problem{'' if total == 1 else 's'} in the input, so nothing was prepared:\n{self.table()}\n"
                f"Examples of each kind are in {folder / REPORT}. Correct the input, or pass --skip-bad to go on "
                "without the bad rows."
            )
