"""A measured figure as a row, and the file of all rows: JSON lines that only ever grow.

A figure is named by its key; where the file holds several rows of one key, the last counts. Knows nothing of how
figures come about or of what is made of them.
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
"""Stands where a figure has no tokenizer (a sequence baseline) or no recommender (the quality of IDs)."""
EVERY = "all"
"""Stands for the domain where a figure belongs to none of them, such as a number of parameters."""
POPULARITY = "popularity"
"""Stands as the recommender of figures of the most frequent ID tuples, for everyone."""
SWITCHED_OFF = "-without-suffix"
"""Follows a recommender's name where it was measured with the disambiguation switched off."""

Name = Annotated[str, Field(min_length=1)]
Part = Literal["validation", "test", "items"]
Level = Literal["item", "tuple", "id"]


class Row(BaseModel):
    """One figure.

    Attributes
    ----------
    protocol : which set of rules and sizes it comes from, such as `small`
    domain, tokenizer, recommender, seed : what was measured
    part : the targets that were measured on; "items" for figures of the items themselves
    level : what counts as a hit, the item or its ID tuple; "id" for the quality of IDs
    metric, value : the figure
    commit : of the code that gave it; `A..B` where its stage was begun with A and gone on with B
    seconds : that the stage took which gave it, the recommender's training included where there was one
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
        """What names the figure: all but its value and how it came about."""
        named = (self.protocol, self.domain, self.tokenizer, self.recommender)
        return (*named, self.seed, self.part, self.level, self.metric)


def read_rows(path: Path) -> list[Row]:
    """The rows that count: of every key the last, in the order in which keys first appear.

    Raises
    ------
    InvalidInput : a line is no row; names file, line and key
    """
    if not path.is_file():
        raise InvalidInput(f"{path}: no such file; `unitok experiment` writes it")
    return list(_parsed(path, path.read_text(encoding="utf-8")).values())


def append_rows(path: Path, rows: Iterable[Row]) -> int:
    """Add the rows that say something new, in one write, and return how many those were.

    A row whose key already has that value adds nothing, so that an experiment may record again what it has skipped.
    Several processes may append at once.
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
        # An editor may have left the last row without an end of its line.
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
