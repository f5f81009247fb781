"""One planned stage of an experiment: a command line of `unitok`, and the labels of its figures in rows.

Knows nothing of how stages are arranged or run.
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
    command : subcommand of `unitok`
    tokenizer, recommender, seed : labels of its rows
    reads : domains whose data it reads
    after : names of the stages whose folders it reads, in the order of the command line
    configuration : contents of its TOML file; empty: it takes none
    options : of the command line, names and values
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
        """Names by which `--only` chooses it."""
        return self.tokenizer, self.recommender
