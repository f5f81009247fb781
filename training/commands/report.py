"""`unitok report`: rows to tables and plots."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from service.errors import ConfigError


def report(
    *,
    table: Annotated[
        str | None,
        typer.Option(
            help="Make this table alone and print it, such as small-recommendations.",
            show_default="every table that the document has a place for",
        ),
    ] = None,
    rows: Annotated[Path, typer.Option(help="File of rows that `unitok experiment` appends to.")] = Path(
        "docs/results.jsonl"
    ),
    document: Annotated[Path, typer.Option(help="Markdown document with the places for tables.")] = Path(
        "docs/results.md"
    ),
    plots: Annotated[Path, typer.Option(help="Folder for plots, one below it for each protocol.")] = Path("docs/plots"),
    experiment: Annotated[
        Path | None,
        typer.Option(help="Also draw what this experiment's stages left; takes --work and --dataset as well."),
    ] = None,
    work: Annotated[Path | None, typer.Option(help="Folder that `unitok experiment` worked in.")] = None,
    dataset: Annotated[Path | None, typer.Option(help="Folder that `unitok prepare` wrote.")] = None,
    trees_of: Annotated[
        str | None,
        typer.Option(help="Tokenizer whose IDs are drawn as trees.", show_default="the experiment's first"),
    ] = None,
) -> None:
    """Make the tables of the results from the file of rows, and the plots.

    A table is mean and standard deviation over seeds. Its name is PROTOCOL-recommendations (test), PROTOCOL-validation
    or PROTOCOL-ids, and its place in the document lies between `<!-- unitok report --table NAME -->` and
    `<!-- end of table -->`. Sensitivity plots come from the rows; training curves, code use and ID trees need the
    folders of the experiment.
    """
    # Imported here so that `unitok --help` stays quick.
    from training.laboratory.experiment import read_experiment  # noqa: PLC0415
    from training.laboratory.report import (  # noqa: PLC0415
        Finished,
        draw_finished,
        draw_sensitivity,
        write_table,
        write_tables,
    )
    from training.laboratory.rows import read_rows  # noqa: PLC0415

    read = read_rows(rows)
    if table is not None:
        typer.echo(write_table(read, document, table), nl=False)
        return
    drawn = draw_sensitivity(read, plots)
    if experiment is not None:
        if work is None or dataset is None:
            raise ConfigError("--experiment needs --work and --dataset: the folders that it ran in and on")
        drawn += draw_finished(Finished(read_experiment(experiment), work, dataset), plots, trees_of)
    elif work is not None or dataset is not None or trees_of is not None:
        raise ConfigError("--work, --dataset and --trees-of have no use without --experiment")
    figures = {**write_tables(read, document), "plots": [str(path) for path in drawn]}
    typer.echo(json.dumps(figures))
