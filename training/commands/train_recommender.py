"""`unitok train-recommender`: histories and semantic IDs to a T5 that writes the next item's ID."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from training.commands.options import names_in, those_given


def train_recommender(
    dataset: Annotated[Path, typer.Argument(help="Folder that `unitok prepare` wrote.")],
    tokenizer: Annotated[Path, typer.Argument(help="Folder that `unitok train-tokenizer` wrote; its IDs are used.")],
    *,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for the recommender. A killed run resumes from the checkpoint in it; "
            "`training.jsonl` in it can be watched, and `model.safetensors` is always the best so far."
        ),
    ],
    config: Annotated[
        Path | None,
        typer.Option(
            help="TOML file of parameters: shape of the network, batches, learning rate. Without one: a T5 of TIGER's "
            "size, which wants a GPU. `training/configs/` has a small one for two processor cores.",
            show_default=False,
        ),
    ] = None,
    embeddings: Annotated[
        Path | None,
        typer.Option(
            help="Folder that `unitok embed` wrote; needed where the configuration has a `content_start` above 0 or "
            "`likeness`.",
            show_default=False,
        ),
    ] = None,
    teacher: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of a recommender that learned these IDs, or of a baseline (sasrec, gru4rec), to learn from "
            "besides; may be given several times. Each teaches the domains that it learned from.",
            show_default=False,
        ),
    ] = None,
    domains: Annotated[
        str | None,
        typer.Option(help="Domains to learn from, joined by commas.", show_default="all of the dataset"),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Stop after this many minutes and keep the best weights; the learning rate schedule ends there.",
            show_default="until validation stops improving",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed.", show_default="of the configuration")] = None,
    threads: Annotated[
        int | None, typer.Option(help="Processor threads; 0 takes every core.", show_default="0")
    ] = None,
) -> None:
    """Train the T5 that reads a user's history and writes the next item's semantic ID.

    Every position of a user's history is an example, except the last two items, which are for validation and test.
    Training ends when NDCG@10 of validation users, measured on items by the constrained beam search that is served,
    stops improving. On several GPUs: `accelerate launch -m service.cli.main train-recommender ...`; on several
    processor cores `torchrun --nproc-per-node 2 -m service.cli.main train-recommender ... --threads 1` is faster
    than `--threads 2`.
    """
    # Imported here so that `unitok --help` stays quick.
    from training.recommender.parameters import read_parameters  # noqa: PLC0415
    from training.recommender.stage import train_recommender as run  # noqa: PLC0415

    chosen = None if domains is None else names_in(domains)
    overrides = those_given(minutes=minutes, seed=seed, threads=threads, domains=chosen)
    figures = run(dataset, tokenizer, out, read_parameters(config, overrides), embeddings, teachers=teacher or [])
    if figures is not None:
        typer.echo(json.dumps(figures))
