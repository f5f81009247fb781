"""Runs an experiment: all stages in order, except finished ones, and appends every figure as a row.

A failed stage is reported at the end; stages that do not depend on it still run. Knows nothing of the command line.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from service.errors import UnitokError
from training.laboratory.experiment import Experiment
from training.laboratory.plan import plan
from training.laboratory.recording import Recorder
from training.laboratory.rows import append_rows
from training.laboratory.running import Execute, Outcome, Workplace, fingerprints, run_stage


def run_experiment(
    experiment: Experiment,
    place: Workplace,
    rows: Path,
    *,
    execute: Execute,
    say: Callable[[str], None],
    only: Sequence[str] = (),
) -> dict[str, Any]:
    """Run all stages that are not finished, and record the figures of all.

    Parameters
    ----------
    rows : the file of rows
    execute : runs a command line of `unitok`
    say : called with a message when a stage begins or fails
    only : see `plan`

    Returns
    -------
    numbers of stages run and skipped, and of new rows

    Raises
    ------
    ConfigError : a domain has no data, a configuration has an unknown key or a wrong value, or `only` matches nothing
    UnitokError : stages failed; names them
    """
    stages = plan(experiment, only)
    marks = fingerprints(stages, place)
    finished: dict[str, Outcome] = {}
    failed: dict[str, str] = {}
    taken: dict[str, list[float]] = defaultdict(list)
    added = 0
    for number, stage in enumerate(stages):
        lost = [name for name in stage.after if name in failed]
        if lost:
            failed[stage.name] = f"builds on {lost[0]}"
            continue
        left = time_left(taken, [stage.command for stage in stages[number:]])
        say(f"[{number + 1}/{len(stages)}] {stage.command} {stage.name}{left}")
        try:
            outcome = run_stage(stage, marks[stage.name], place, execute)
        except UnitokError as error:
            failed[stage.name] = str(error)
            say(f"  failed: {error}")
            continue
        finished[stage.name] = outcome
        taken[stage.command].append(outcome.figures["seconds"])
        seconds = outcome.figures["seconds"] + sum(
            finished[name].figures["seconds"] for name in stage.after if name.startswith("recommenders/")
        )
        recorder = Recorder(experiment.protocol, stage, outcome.commit, round(seconds, 1))
        added += append_rows(rows, recorder.rows(outcome.figures))
    if failed:
        listed = "\n".join(f"  {name}: {reason}" for name, reason in failed.items())
        raise UnitokError(f"{len(failed)} of {len(stages)} stages failed:\n{listed}")
    skipped = sum(outcome.skipped for outcome in finished.values())
    return {"protocol": experiment.protocol, "run": len(stages) - skipped, "skipped": skipped, "new_rows": added}


def time_left(taken: Mapping[str, Sequence[float]], left: Sequence[str]) -> str:
    """Text with the remaining time, estimated from the mean of finished stages by command; empty if there are none.

    Parameters
    ----------
    taken : seconds of finished stages, by command
    left : commands still to be run
    """
    known = [fmean(taken[command]) for command in left if taken.get(command)]
    if not known:
        return ""
    minutes = round(sum(known) / 60)
    said = f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
    return f", {'about' if len(known) == len(left) else 'more than'} {said} left"
