"""Shared by all stages of the offline half: one folder, one JSON file of figures, one line of JSON.

A stage writes its artefact into its own folder; `figures.json` beside it records how the artefact was made. A stage is
finished when `figures.json` exists, so this file is written last and in one step. Knows nothing of what the stages do.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.durable import make_folder, put_in_place
from service.errors import ConfigError

FIGURES = "figures.json"
LOG = "training.jsonl"
"""Log of a training stage: one line of JSON per validation so far."""


@dataclass
class Clock:
    """Measures the seconds that a stage takes.

    Attributes
    ----------
    before : seconds of earlier runs, up to the checkpoint that this run resumes from
    started : when this run began
    """

    before: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    def seconds(self) -> float:
        """Seconds over all runs so far."""
        return self.before + time.perf_counter() - self.started


@dataclass
class Stage:
    """A running stage; create it first, call `finish` last.

    Attributes
    ----------
    name : the subcommand that runs it
    folder : for its artefact; created if missing
    clock : of the stage; saved in and restored from its checkpoints

    Raises
    ------
    ConfigError : the folder holds the artefact of another, finished stage
    """

    name: str
    folder: Path
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        make_folder(self.folder)
        # Deleting another stage's figures would make its artefact unusable.
        other = _finished_stage(self.folder)
        if other not in (None, self.name):
            raise ConfigError(f"{self.folder}: holds what `unitok {other}` wrote; choose another folder, or delete it")
        (self.folder / FIGURES).unlink(missing_ok=True)

    def finish(self, figures: dict[str, Any]) -> dict[str, Any]:
        """Write `figures.json` and return its contents.

        Adds the seconds over all runs, and the peak memory of this run in MiB.
        """
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        complete = {
            "stage": self.name,
            **figures,
            "seconds": round(self.clock.seconds(), 1),
            "peak_memory_mib": peak,
        }
        write_atomically(self.folder / FIGURES, json.dumps(complete, indent=2) + "\n")
        return complete


def _finished_stage(folder: Path) -> str | None:
    """The finished stage in a folder; None if there is none, or its figures are damaged."""
    try:
        stage: str | None = read_figures(folder).get("stage")
    except ConfigError:
        return None
    return stage


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path whose file replaces `path` in one step: readers see the old content or the new.

    The new content is on disk when the block has ended. A failed block leaves the temporary file beside `path` until
    the next one overwrites it.
    """
    partial = path.with_name(path.name + ".partial")
    yield partial
    put_in_place(partial, path)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file in one step."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_log(folder: Path, entries: Iterable[dict[str, Any]]) -> None:
    """Write `training.jsonl` in one step."""
    write_atomically(folder / LOG, "".join(json.dumps(entry) + "\n" for entry in entries))


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Entries written by `write_log`; empty if there is no log yet."""
    path = folder / LOG
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def read_figures(folder: Path) -> dict[str, Any]:
    """Figures of a finished stage.

    Raises
    ------
    ConfigError : the folder holds no finished stage, or its file is damaged
    """
    path = folder / FIGURES
    if not path.is_file():
        raise ConfigError(f"{folder}: no {FIGURES}; the stage that writes this folder has not finished")
    try:
        figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: is damaged: {error}; run its stage again") from None
    return figures
