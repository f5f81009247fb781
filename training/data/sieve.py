"""A raw table under checks: bad rows are removed, and the removals are counted by reason.

Knows nothing of particular checks.
"""

from __future__ import annotations

from collections import Counter

import polars as pl

from training.data.report import Findings, Kind, Problem
from training.data.tables import RawTable


class Sieve:
    """Rows of a table that have passed the checks so far.

    A *mask* is a boolean Series or expression over the current rows of `frame`; null counts as False.

    Attributes
    ----------
    frame : the remaining rows
    dropped : number of dropped rows, by reason, including records rejected while reading
    emptied : number of values set to null, by reason
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
        """Report rows as a problem without removing them; returns their number.

        Parameters
        ----------
        reason : text for each row, evaluated on the bad rows alone; values that depend on other rows must be columns
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
        """Remove rows without reporting a problem; they are counted under `why`."""
        before = len(self.frame)
        self.frame = self.frame.remove(mask)
        self.dropped[why] += before - len(self.frame)

    def counts(self) -> dict[str, dict[str, int]]:
        """Counts by reason for the figures, without zeros."""
        return {
            "dropped": {why: count for why, count in self.dropped.items() if count},
            "emptied": {why: count for why, count in self.emptied.items() if count},
        }
