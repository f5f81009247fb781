"""A backfill job, one file into one domain: path, format, columns, and the name of its checkpoint.

Independent of stores and of how the file is processed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from service.backfill.reading import FileFormat, columns_of
from service.backfill.rows import TEXT_FIELDS
from service.bundle.files import sha256_of
from service.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class BackfillJob:
    """One file to register in one domain.

    Attributes
    ----------
    path, kind : the file and its format
    columns : field name -> column name in the file
    renamed : fields with a column given by the caller; the file must have these columns
    domain : target domain
    batch : items encoded and registered together
    skip_bad : count and skip bad rows, instead of stopping at the first
    """

    path: Path
    kind: FileFormat
    columns: Mapping[str, str]
    renamed: frozenset[str]
    domain: str
    batch: int
    skip_bad: bool

    def check_columns(self) -> None:
        """Check the column names in the file's header.

        Raises
        ------
        InvalidInput : no such file, no such column, or no column to compute a semantic ID from
        """
        present = columns_of(self.path, self.kind)
        if present is None:
            return
        wanted = [self.columns[name] for name in ("item_id", *sorted(self.renamed))]
        for column in wanted:
            if column not in present:
                raise InvalidInput(f"{self.path}: has no column {column!r}, but {present}; see --map")
        if not any(self.columns[name] in present for name in (*TEXT_FIELDS, "embedding")):
            raise InvalidInput(
                f"{self.path}: none of the columns {present} holds text ({', '.join(TEXT_FIELDS)}) or an embedding; "
                "see --map"
            )

    def checkpoint_name(self) -> str:
        """Name of the progress checkpoint; depends on the file's content, not on its name."""
        reading = json.dumps([self.kind, dict(sorted(self.columns.items()))])
        digest = hashlib.sha256((sha256_of(self.path) + reading).encode()).hexdigest()
        return f"backfill:{self.domain}:{digest}"
