"""Line source for a CSV reader that recovers after a bad record.

An unclosed quote makes one field of all lines up to the next quote, the reader's limit or the end of the file.
Independent of what the fields mean.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterable, Iterator


class CsvLines:
    """Iterator over lines for a `csv.reader`, which takes as many as a record needs.

    Attributes
    ----------
    number : number of lines taken so far
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._again: deque[str] = deque()
        self._record: list[str] = []
        self._ended = False
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            line = self._again.popleft() if self._again else next(self._lines)
        except StopIteration:
            self._ended = True
            raise
        self._record.append(line)
        self.number += 1
        return line

    def begin(self) -> int:
        """Number of the next record's first line."""
        self._record.clear()
        return self.number + 1

    def pass_over(self, error: csv.Error) -> str:
        """Skip a record that the reader rejected; returns the error message, which says where reading continues.

        The lines after a quote that is never closed are whole records, so reading continues at the next line. Lines
        after a quote closed in a wrong place may be text, which must not become items: the message lists them.
        """
        lines, last = len(self._record), self.number
        too_long = str(error).startswith("field larger than field limit")
        if too_long and lines == 1:
            return f"has a field of more than {csv.field_size_limit()} characters; bring it as Parquet or JSON lines"
        if too_long or self._ended:
            self._again.extendleft(reversed(self._record[1:]))
            self.number -= lines - 1
            where = f"within {csv.field_size_limit()} characters" if too_long else "before the file ends"
            return f"a quote is opened, but not closed {where}; close it (reading went on at the next line)"
        lost = "" if lines == 1 else f"; lines {last - lines + 1} to {last} were read as one record and are passed over"
        return f"{error}; a quote inside quotes is written twice in CSV{lost}"
