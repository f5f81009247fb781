"""The report on bad data: kind, file, row, field and reason of each problem.

All problems are counted; the first few of each kind and domain are kept as examples. Knows nothing of how problems
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
"""Default number of examples kept of each kind and domain."""


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
    """One problem in the input.

    Attributes
    ----------
    kind : kind of problem
    file : the source file; empty if the problem does not belong to a single file
    row : line number in a text file or row number in a Parquet file, both from 1
    field : name of the column or key in the source
    reason : what was found, and what would be right
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
    """Problems found in one domain.

    Attributes
    ----------
    domain : its name
    limit : number of examples kept of each kind
    problems : counts of problems that stop the stage unless bad data is skipped
    notices : counts of problems that are only reported
    examples : the first of each kind, problems and notices together
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
        """Count many problems of a kind at once; examples beyond the limit are not kept."""
        (self.notices if notice else self.problems)[kind] += count
        kept = self.examples.setdefault(kind, [])
        for problem in examples:
            if len(kept) >= self.limit:
                break
            kept.append(problem)


@dataclass(frozen=True)
class Report:
    """Problems found in all domains."""

    domains: tuple[Findings, ...]

    @property
    def problems(self) -> Counter[Kind]:
        """Counts of problems by kind over all domains."""
        return sum((findings.problems for findings in self.domains), Counter())

    @property
    def notices(self) -> Counter[Kind]:
        """Counts of notices by kind over all domains."""
        return sum((findings.notices for findings in self.domains), Counter())

    def as_json(self) -> dict[str, Any]:
        """The content of `report.json`; total counts include kinds that did not occur."""
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
        """One line per domain and kind of problem: the count, and the first example."""
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
