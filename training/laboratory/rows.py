"""A measured figure as a row, and the append-only file of all rows, in JSON lines.

A figure is identified by its key; of several rows with the same key, the last one counts. Knows nothing of how figures
are measured or used.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.errors import InvalidInput
from training.configuration import Natural, problems

NONE = "none"
"""The value for a figure without a tokenizer (a sequence baseline) or without a recommender (the quality of IDs)."""
EVERY = "all"
"""The domain of a figure that belongs to no single domain, such as a number of parameters."""
POPULARITY = "popularity"
"""The recommender of figures of the popularity rule: the most frequent ID tuples for every user."""
SWITCHED_OFF = "-without-suffix"
"""Suffix of a recommender's name if it was measured with disambiguation switched off."""

Name = Annotated[str, Field(min_length=1)]
Part = Literal["validation", "test", "items"]
Level = Literal["item", "tuple", "id"]


class Row(BaseModel):
    """One figure.

    Attributes
    ----------
    protocol : the set of rules and sizes it belongs to, such as `small`
    domain, tokenizer, recommender, seed : what was measured
    part : the split of the targets; "items" for figures of the items themselves
    level : what counts as a hit, the item or its ID tuple; "id" for the quality of IDs
    metric, value : the figure
    commit : of the code that ran its stage; `A..B` if the stage was started with A and resumed with B
    seconds : duration of its stage, including the training of the recommender if there is one
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    protocol: Name
    domain: Name
    tokenizer: Name
    recommender: Name
    seed: Natural
    part: Part
    level: Level
    metric: Name
    value: Annotated[float, Field(allow_inf_nan=False)]
    commit: Name
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]

    @property
    def key(self) -> tuple[str | int, ...]:
        """Identifies the figure: all fields but value, commit and seconds."""
        named = (self.protocol, self.domain, self.tokenizer, self.recommender)
        return (*named, self.seed, self.part, self.level, self.metric)


def read_rows(path: Path) -> list[Row]:
    """The last row of every key, in the order in which keys first appear.

    Raises
    ------
    InvalidInput : the file is missing, or a line is not a row; names file, line and key
    """
    if not path.is_file():
        raise InvalidInput(f"{path}: no such file; `unitok experiment` writes it")
    return list(_parsed(path, path.read_text(encoding="utf-8")).values())


def append_rows(path: Path, rows: Iterable[Row]) -> int:
    """Append the rows that change something, in one write, and return their number.

    A row whose key already has the same value is not written again, so that an experiment may record skipped stages
    anew. Several processes may append at once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read().decode("utf-8")
        known = _parsed(path, text)
        fresh: dict[tuple[str | int, ...], Row] = {}
        for row in rows:
            if row.key not in known or known[row.key].value != row.value:
                fresh[row.key] = row
        # An editor may have saved the file without a newline at its end.
        start = "\n" if fresh and text and not text.endswith("\n") else ""
        file.write((start + "".join(row.model_dump_json() + "\n" for row in fresh.values())).encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())
    return len(fresh)


def _parsed(path: Path, text: str) -> dict[tuple[str | int, ...], Row]:
    rows: dict[tuple[str | int, ...], Row] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            row = Row.model_validate_json(line)
        except ValidationError as error:
            wrong, known = problems(error, "line"), ", ".join(Row.model_fields)
            raise InvalidInput(f"{path}, line {number}: {wrong} (a row has {known})") from None
        rows[row.key] = row
    return rows
