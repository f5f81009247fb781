"""A raw table under checks: rows leave it one reason after the other, and each reason keeps its count.

Knows nothing of which checks there are.
"""

from __future__ import annotations

from collections import Counter

import polars as pl

from training.data.report import Findings, Kind, Problem
from training.data.tables import RawTable


class Sieve:
    """Rows of a table that have passed the checks so far.

    A *mask* is a boolean Series, or an expression for one, over the rows of `frame` as it is now; null counts as
    False.

    Attributes
    ----------
    frame : the rows left
    dropped : how many rows are gone, by reason; those that were never taken included
    emptied : how many values were set to null, by reason
    files : names of the files, by number
    """

    def __init__(self, table: RawTable, findings: Findings) -> None:
        self.frame = table.frame
        self.dropped: Counter[str] = Counter(table.dropped)
        self.emptied: Counter[str] = Counter(table.emptied)
        self.files = dict(enumerate(table.files))
        self._names = table.names
        self._findings = findings

    def report(self, mask: pl.Expr | pl.Series, kind: Kind, column: str, reason: pl.Expr, notice: bool = False) -> int:
        """Count rows as a problem; the rows stay. Returns how many.

        Parameters
        ----------
        reason : text for each row, evaluated on the bad rows alone: what depends on other rows must be a column
        """
        bad = self.frame.filter(mask)
        if len(bad):
            shown = bad.select("file", "row", reason.alias("reason")).head(self._findings.limit)
            examples = [
                Problem(kind, self.files[file], row, self._names[column], text) for file, row, text in shown.iter_rows()
            ]
            self._findings.add_many(kind, len(bad), examples, notice)
        return len(bad)

    def drop(self, mask: pl.Expr | pl.Series, kind: Kind, column: str, reason: pl.Expr) -> None:
        """Report rows and remove them."""
        if self.report(mask, kind, column, reason):
            self.remove(mask, kind.value)

    def empty(self, mask: pl.Expr, kind: Kind, column: str, reason: pl.Expr) -> None:
        """Report rows and set their value in a column to null."""
        self.emptied[kind.value] += self.report(mask, kind, column, reason)
        self.frame = self.frame.with_columns(pl.when(mask).then(None).otherwise(pl.col(column)).alias(column))

    def remove(self, mask: pl.Expr | pl.Series, why: str) -> None:
        """Remove rows for a reason that is no problem in itself."""
        before = len(self.frame)
        self.frame = self.frame.remove(mask)
        self.dropped[why] += before - len(self.frame)

    def counts(self) -> dict[str, dict[str, int]]:
        """What happened, as it stands in the figures; reasons that never applied are left out."""
        return {
            "dropped": {why: count for why, count in self.dropped.items() if count},
            "emptied": {why: count for why, count in self.emptied.items() if count},
        }
