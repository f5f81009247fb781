"""Progress counts of a backfill, for its checkpoints and its final report.

Independent of files, networks and stores.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from service.backfill.rows import Rejection

EXAMPLES = 5
"""Rejected rows per kind shown in a report."""


@dataclass
class Tally:
    """Counts over all runs on one file.

    Attributes
    ----------
    records : processed records of the file
    created, present : new items, and items that already existed
    rejected : kind -> number of rows
    examples : kind -> the first few of them
    seconds : time spent
    finished : whether the end of the file was reached
    """

    records: int = 0
    created: int = 0
    present: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    seconds: float = 0.0
    finished: bool = False

    @classmethod
    def from_json(cls, text: str) -> Tally:
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))

    def to_json(self) -> str:
        """Serialise for a checkpoint."""
        return json.dumps(asdict(self))

    def reject(self, rejection: Rejection, file: str) -> None:
        """Count a rejected row."""
        self.rejected[rejection.kind] = self.rejected.get(rejection.kind, 0) + 1
        examples = self.examples.setdefault(rejection.kind, [])
        if len(examples) < EXAMPLES:
            examples.append({"file": file, "row": rejection.row, "field": rejection.field, "reason": rejection.reason})

    def report(self, **about: Any) -> dict[str, Any]:
        """The report as one JSON object; the fields of `about` come first."""
        return {
            **about,
            "read": self.records,
            "created": self.created,
            "already_there": self.present,
            "rejected": {
                kind: {"count": count, "examples": self.examples[kind]} for kind, count in sorted(self.rejected.items())
            },
            "seconds": round(self.seconds, 3),
            "items_per_second": round(self.records / self.seconds, 1) if self.seconds else None,
        }
