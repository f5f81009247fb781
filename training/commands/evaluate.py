"""`unitok evaluate`: Recall and NDCG of a bundle or a trained recommender, by the engine that serves it."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from service.errors import ConfigError
from training.commands.options import names_in


class Part(StrEnum):
    """Which item of every user is the target."""

    TEST = "test"
    VALIDATION = "validation"


class Device(StrEnum):
    """Where the graph runs."""

    CPU = "cpu"
    CUDA = "cuda"


def evaluate(
    subject: Annotated[
        Path,
        typer.Argument(
            help="Bundle that `unitok export` wrote; with --tokenizer, folder that `unitok train-recommender` wrote."
        ),
    ],
    dataset: Annotated[Path, typer.Argument(help="Folder that `unitok prepare` wrote, with the histories.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder for `evaluation.json`.")],
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="Folder that `unitok train-tokenizer` wrote, whose IDs the recommender learned: measures a trained "
            "recommender without a bundle.",
            show_default=False,
        ),
    ] = None,
    domains: Annotated[
        str | None, typer.Option(help="Domains, joined by commas.", show_default="all that have semantic IDs")
    ] = None,
    split: Annotated[
        Part,
        typer.Option(
            help="`test`: the last item of every user is the target. `validation`: the last but one; make every "
            "choice on this one."
        ),
    ] = Part.TEST,
    max_users: Annotated[
        int | None, typer.Option(min=1, help="Per domain, drawn at random.", show_default="all")
    ] = None,
    beams: Annotated[int, typer.Option(min=10, max=1000, help="Beams of every search.")] = 20,
    recommender: Annotated[
        str | None,
        typer.Option(help="One of the bundle's recommenders.", show_default="the first that learned from the domain"),
    ] = None,
    remove_history: Annotated[
        bool,
        typer.Option(
            "--remove-history",
            help="Take the items of a history, its newest 20, out of its list, as `exclude_history` of the service "
            "does with the items it is sent. Older ones stay.",
        ),
    ] = False,
    without_repeats: Annotated[
        bool,
        typer.Option(
            "--without-repeats", help="Leave aside what the recommender has learned of items that come again."
        ),
    ] = False,
    without_suffix: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Switch the disambiguation off: histories are read without suffixes, and items that share their "
            "codes and experts come in a random order, drawn with this seed.",
            show_default=False,
        ),
    ] = None,
    provider: Annotated[Device, typer.Option(help="Where the graph runs; never a silent fallback.")] = Device.CPU,
    threads: Annotated[int, typer.Option(min=0, help="Processor threads; 0 takes every core.")] = 0,
) -> None:
    """Measure Recall and NDCG at 5 and 10, item by item, over every item of the domain.

    A hit is a hit on the item; beside it stand the laxer count of whole ID tuples that publications use, what always
    recommending the ten most popular items would score, and how many items share a tuple; of a trained recommender
    that scores items also what its head scores over all items without a search.
    """
    # Imported here so that `unitok --help` stays quick.
    from service.engine.sessions import Runtime  # noqa: PLC0415
    from training.evaluation.stage import EvaluationOptions  # noqa: PLC0415
    from training.evaluation.stage import evaluate as run  # noqa: PLC0415
    from training.evaluation.subject import bundle_subject  # noqa: PLC0415
    from training.networks.t5 import RECORD  # noqa: PLC0415

    options = EvaluationOptions(
        domains=None if domains is None else names_in(domains),
        part=split.value,
        max_users=max_users,
        beams=beams,
        recommender=recommender,
        remove_history=remove_history,
        without_repeats=without_repeats,
        without_suffix=without_suffix,
    )
    runtime = Runtime(provider=provider.value, threads=threads)
    if tokenizer is None and (subject / RECORD).is_file():
        raise ConfigError(
            f"{subject}: is a trained recommender, not a bundle: give the --tokenizer whose IDs it learned"
        )
    if tokenizer is None:
        opened = bundle_subject(subject, runtime)
    else:
        from training.evaluation.trained import trained_subject  # noqa: PLC0415  torch

        opened = trained_subject(tokenizer, subject, dataset, out, runtime)
    figures = run(opened, dataset, out, options)
    typer.echo(json.dumps(figures))
