"""Runs one stage of an experiment as the command line that a person would type, unless it is already finished.

A stage's folder belongs to one fingerprint, computed from its parameters (with defaults), its data, and the
fingerprints of the stages it depends on. Knows nothing of the stages' files beyond `figures.json`.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from service.errors import ConfigError, UnitokError
from training.laboratory.checkout import commit
from training.laboratory.effective import effective_parameters
from training.laboratory.planned import PlannedStage
from training.laboratory.provenance import DataDigests, digest
from training.stage import FIGURES, read_figures, write_atomically

STAMP = "run.json"
CONFIGURATION = "configuration.toml"

Execute = Callable[[Sequence[str], int], None]
"""Runs `unitok` with arguments; its process inherits the given file descriptor. Raises UnitokError if it fails."""


@dataclass(frozen=True)
class Workplace:
    """Where an experiment runs.

    Attributes
    ----------
    dataset, embeddings : folders written by `prepare` and `embed`
    work : parent of the stages' folders
    threads : CPU threads for every stage; 0: all cores
    """

    dataset: Path
    embeddings: Path
    work: Path
    threads: int = 0


@dataclass(frozen=True)
class Outcome:
    """A finished stage.

    Attributes
    ----------
    figures : its `figures.json`
    commit : of the code that ran it; `A..B` if it was resumed from a checkpoint by other commits
    skipped : whether it was already finished
    """

    figures: dict[str, Any]
    commit: str
    skipped: bool


def in_process_of_its_own(arguments: Sequence[str], keep_open: int) -> None:
    """Run `unitok` with the interpreter of this process; shows its progress (stderr), not its line of figures (stdout).

    Raises
    ------
    UnitokError : its exit status is not 0
    """
    command = [sys.executable, "-m", "service.cli.main", *arguments]
    ended = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, pass_fds=(keep_open,))  # noqa: S603
    if ended.returncode != 0:
        raise UnitokError(f"`unitok {' '.join(arguments)}` ended with status {ended.returncode}")


def fingerprints(stages: Sequence[PlannedStage], place: Workplace) -> dict[str, str]:
    """Fingerprint of each stage, by its name; stages must come after those they depend on.

    Raises
    ------
    ConfigError : a domain has no data, or a configuration has an unknown key or a wrong value
    """
    data = DataDigests(place.dataset, place.embeddings)
    known: dict[str, str] = {}
    for stage in stages:
        read = data.dataset(stage.reads)
        if stage.command == "train-tokenizer":
            read += data.embeddings(stage.reads)
        said = [stage.command, stage.reads, effective_parameters(stage), stage.options]
        known[stage.name] = digest([said, read, [known[name] for name in stage.after]])
    return known


def run_stage(stage: PlannedStage, fingerprint: str, place: Workplace, execute: Execute) -> Outcome:
    """Run or resume the stage unless it is finished; waits while another process runs it.

    Raises
    ------
    ConfigError : its folder holds files of something else
    UnitokError : the stage failed
    """
    folder = place.work / stage.name
    with _locked(folder) as lock:
        stamp = _stamp(folder)
        skipped = stamp.get("fingerprint") == fingerprint and (folder / FIGURES).is_file()
        if not skipped:
            if stamp.get("fingerprint") != fingerprint:
                shutil.rmtree(folder, ignore_errors=True)
                stamp = {}
            stamp = {"fingerprint": fingerprint, "commit": _commits(folder, stamp.get("commit"))}
            folder.mkdir(parents=True, exist_ok=True)
            if stage.configuration:
                _write_configuration(folder / CONFIGURATION, stage.configuration, place.threads)
            write_atomically(folder / STAMP, json.dumps(stamp, indent=2) + "\n")
            execute(command_line(stage, place), lock)
        return Outcome(read_figures(folder), stamp["commit"], skipped)


def command_line(stage: PlannedStage, place: Workplace) -> list[str]:
    """Arguments of `unitok`."""
    folder, after = place.work / stage.name, [str(place.work / name) for name in stage.after]
    data = str(place.dataset)
    match stage.command:
        case "train-tokenizer":
            named = [data, str(place.embeddings)]
        case "train-recommender":
            teachers = [part for taught_by in after[1:] for part in ("--teacher", taught_by)]
            named = [data, after[0], "--embeddings", str(place.embeddings), *teachers]
        case "evaluate":
            named = [after[0], data, "--tokenizer", after[1], "--threads", str(place.threads)]
        case "train-baseline":
            named = [data]
    configured = ["--config", str(folder / CONFIGURATION)] if stage.configuration else []
    return [stage.command, *named, *stage.options, *configured, "--out", str(folder)]


def _write_configuration(path: Path, configuration: Mapping[str, Any], threads: int) -> None:
    write_atomically(path, tomli_w.dumps({**configuration, "threads": threads}))


def _commits(folder: Path, begun: str | None) -> str:
    """Commit of the code that is about to run a stage, preceded by the commits of the runs that it resumes.

    An earlier run counts only if it left a checkpoint; otherwise it contributes nothing to the figures.
    """
    # Imported here, since it imports torch, which takes long.
    from training.checkpoint import CHECKPOINT  # noqa: PLC0415

    now = commit()
    if begun is None or not (folder / CHECKPOINT).is_file():
        return now
    return begun if begun.split("..")[-1] == now else f"{begun}..{now}"


def _stamp(folder: Path) -> dict[str, str]:
    """The stamp written when the stage began; empty if it has not begun."""
    path = folder / STAMP
    if path.is_file():
        stamp: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        return stamp
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder}: holds files that no experiment wrote there; give --work another folder")
    return {}


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """Hold the stage's lock. The stage's process inherits it, so it stays locked even if this process is killed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()
