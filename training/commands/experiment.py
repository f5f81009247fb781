"""`unitok experiment`: everything that a small file asks for, resumable, every figure a row."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer


def experiment(
    file: Annotated[Path, typer.Argument(help="TOML file, such as training/experiments/small.toml.")],
    *,
    dataset: Annotated[Path, typer.Option(help="Folder that `unitok prepare` wrote.")],
    embeddings: Annotated[Path, typer.Option(help="Folder that `unitok embed` wrote.")],
    work: Annotated[
        Path, typer.Option(help="Folder for the stages' folders. What is finished in it for the same file is skipped.")
    ],
    rows: Annotated[Path, typer.Option(help="File of JSON lines that every figure is appended to.")] = Path(
        "docs/results.jsonl"
    ),
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Run only what concerns this tokenizer, recommender or baseline; `*` stands for any characters; "
            "repeat for several.",
            show_default=False,
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="Processor threads of every stage; 0 takes every core.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the command lines, run nothing.")] = False,
) -> None:
    """Train and measure everything that an experiment names: tokenizers, recommenders on their IDs, baselines.

    Every stage is run as the command line that you would type, and these are `unitok train-tokenizer`,
    `train-recommender`, `evaluate` and `train-baseline`. A killed run resumes where it stopped. Several runs with
    different --only may share one work folder. `unitok report` makes tables and plots of the rows.
    """
    # Imported here so that `unitok --help` stays quick.
    from training.laboratory.experiment import read_experiment  # noqa: PLC0415
    from training.laboratory.plan import plan  # noqa: PLC0415
    from training.laboratory.running import Workplace, command_line, in_process_of_its_own  # noqa: PLC0415
    from training.laboratory.stage import run_experiment  # noqa: PLC0415

    read = read_experiment(file)
    place = Workplace(dataset, embeddings, work, threads)
    if dry_run:
        for stage in plan(read, only or ()):
            typer.echo(f"unitok {' '.join(command_line(stage, place))}")
        return
    # As an exception, so that the stage's process is killed as well; it would go on training for hours.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    figures = run_experiment(
        read,
        place,
        rows,
        execute=in_process_of_its_own,
        say=lambda line: typer.echo(line, err=True),
        only=only or (),
    )
    typer.echo(json.dumps(figures))
