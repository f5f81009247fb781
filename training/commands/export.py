"""`unitok export`: the trained parts to a bundle that is proven to do what they do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from training.commands.options import names_in


def export(
    *,
    dataset: Annotated[Path, typer.Option(help="Folder that `unitok prepare` wrote.")],
    embeddings: Annotated[
        Path, typer.Option(help="Folder that `unitok embed` wrote; its `encoder/` goes into the bundle.")
    ],
    tokenizer: Annotated[Path, typer.Option(help="Folder that `unitok train-tokenizer` wrote.")],
    recommender: Annotated[
        list[Path],
        typer.Option(
            help="Folder that `unitok train-recommender` wrote. Give it several times for several recommenders over "
            "one tokenizer; each is named after its folder and answers for the domains it learned from."
        ),
    ],
    name: Annotated[str, typer.Option(help="Name of the bundle; stores keep their keys under it.")],
    out: Annotated[Path, typer.Option(help="Folder for the bundle, such as models/NAME; it must not exist.")],
    generation: Annotated[
        int, typer.Option(min=1, help="Number of this set of semantic IDs; raise it when the tokenizer changes.")
    ] = 1,
    description: Annotated[str, typer.Option(help="A line for people, shown by GET /bundle.")] = "",
    domains: Annotated[
        str | None,
        typer.Option(help="Domains of the bundle's catalogue, joined by commas.", show_default="all that have IDs"),
    ] = None,
    histories: Annotated[int, typer.Option(min=1, help="Real histories on which every recommender is proven.")] = 200,
    beams: Annotated[int, typer.Option(min=1, help="Beam width of the proof.")] = 20,
    gpu: Annotated[
        bool,
        typer.Option(
            "--gpu",
            help="Lay the recommenders out for a GPU: the same lists, sooner there and later on a processor.",
        ),
    ] = False,
    half: Annotated[
        bool,
        typer.Option(
            "--half",
            help="As --gpu, in half precision: faster there again, slower again on a processor. Refused unless 99 % of "
            "the ten best items of the proof's histories stay.",
        ),
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a bundle that is already there.")] = False,
    threads: Annotated[int, typer.Option(min=0, help="Threads of the proof; 0 takes every core.")] = 0,
) -> None:
    """Write a bundle, run what was written, and put it in place only if it does what the networks do.

    Compared are the semantic IDs of the whole catalogue with the tokenizer's, and the ranked lists of real histories
    with transformers' constrained `generate`. The first difference that is no tie ends the export and names the tensor;
    of lists in half precision it is their best items that are counted.
    """
    from training.export.bundle import ExportOptions, export_bundle  # noqa: PLC0415  torch
    from training.export.sources import Folders  # noqa: PLC0415

    options = ExportOptions(
        name=name,
        generation=generation,
        description=description,
        domains=None if domains is None else names_in(domains),
        histories=histories,
        beams=beams,
        gpu=gpu,
        half=half,
        replace=replace,
        threads=threads,
    )
    figures = export_bundle(Folders(dataset, embeddings, tokenizer, tuple(recommender)), out, options)
    typer.echo(json.dumps(figures))
