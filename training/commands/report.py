"""`unitok report`: rows to tables and plots."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from service.errors import ConfigError

RESULTS = Path("docs/results.md")
LONG_TABLES = Path("docs/tables")


def report(
    *,
    table: Annotated[
        str | None,
        typer.Option(
            help="Make this table alone, such as small-recommendations: print it, and fill its place if there is one.",
            show_default="every table that a document has a place for",
        ),
    ] = None,
    rows: Annotated[Path, typer.Option(help="File of rows that `unitok experiment` appends to.")] = Path(
        "docs/results.jsonl"
    ),
    document: Annotated[
        list[Path] | None,
        typer.Option(
            help="Markdown document with places for tables; may be repeated.",
            show_default=f"{RESULTS} and {LONG_TABLES}/*.md",
        ),
    ] = None,
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
    or PROTOCOL-ids, and its place in one of the documents lies between `<!-- unitok report --table NAME -->`
    and `<!-- end of table -->`. Sensitivity plots come from the rows; training curves, code use and ID trees need the
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

    read, documents = read_rows(rows), document or [RESULTS, *sorted(LONG_TABLES.glob("*.md"))]
    if table is not None:
        typer.echo(write_table(read, documents, table), nl=False)
        return
    drawn = draw_sensitivity(read, plots)
    if experiment is not None:
        if work is None or dataset is None:
            raise ConfigError("--experiment needs --work and --dataset: the folders that it ran in and on")
        drawn += draw_finished(Finished(read_experiment(experiment), work, dataset), plots, trees_of)
    elif work is not None or dataset is not None or trees_of is not None:
        raise ConfigError("--work, --dataset and --trees-of have no use without --experiment")
    figures = {**write_tables(read, documents), "plots": [str(path) for path in drawn]}
    typer.echo(json.dumps(figures))
