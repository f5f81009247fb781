"""One file to bring into one domain: where it is, how it is read, and under which name its progress is kept.

Knows nothing of stores, nor of what is done with the file.
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
    """One file to bring into one domain.

    Attributes
    ----------
    path, kind : the file and its format
    columns : our name of a field -> the file's
    renamed : fields whose column the caller named, and which the file must therefore have
    domain : where the items go
    batch : items encoded and registered at a time
    skip_bad : count bad rows and go on, in place of stopping at the first
    """

    path: Path
    kind: FileFormat
    columns: Mapping[str, str]
    renamed: frozenset[str]
    domain: str
    batch: int
    skip_bad: bool

    def check_columns(self) -> None:
        """Look at the file's head.

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
        """Where progress is kept: by what the file holds, not by what it is called."""
        reading = json.dumps([self.kind, dict(sorted(self.columns.items()))])
        digest = hashlib.sha256((sha256_of(self.path) + reading).encode()).hexdigest()
        return f"backfill:{self.domain}:{digest}"
