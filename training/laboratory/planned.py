"""One stage of an experiment, as it is planned: a command line of `unitok`, and what its figures are rows of.

Knows nothing of how stages are laid out or run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Command = Literal["train-tokenizer", "train-recommender", "evaluate", "train-baseline"]


@dataclass(frozen=True)
class PlannedStage:
    """One stage.

    Attributes
    ----------
    name : its folder below the work folder
    command : of `unitok`
    tokenizer, recommender, seed : what its figures are rows of
    reads : domains whose data it reads
    after : names of the stages whose folders it reads, in the order of the command line
    configuration : what its TOML file holds; empty: it takes none
    options : of the command line, name and value
    """

    name: str
    command: Command
    tokenizer: str
    recommender: str
    seed: int
    reads: tuple[str, ...]
    after: tuple[str, ...] = ()
    configuration: dict[str, Any] = field(default_factory=dict)
    options: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, str]:
        """Names by which a person may choose it."""
        return self.tokenizer, self.recommender
