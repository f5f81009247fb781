"""`unitok train-baseline`: one domain's histories to a recommender that knows nothing of semantic IDs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from training.commands.options import those_given


def train_baseline(
    dataset: Annotated[Path, typer.Argument(help="Folder that `unitok prepare` wrote.")],
    *,
    domain: Annotated[str, typer.Option(help="The domain to learn from and to rank in.")],
    config: Annotated[
        Path,
        typer.Option(
            help="TOML file; its `kind` is one of sasrec, bert4rec, gru4rec, lightgcn, mf, popularity, random. "
            "`training/configs/baselines/` has one of each."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for the baseline. A killed run resumes from the checkpoint in it; `training.jsonl` "
            "in it can be watched, and `model.safetensors` is always the best so far."
        ),
    ],
    max_users: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of users measured at the end, drawn at random: the same ones as with `unitok evaluate`.",
            show_default="all",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed.", show_default="of the configuration")] = None,
    threads: Annotated[
        int | None, typer.Option(help="Processor threads; 0 takes every core.", show_default="0")
    ] = None,
) -> None:
    """Train one baseline on one domain and measure it by the protocol of `unitok evaluate`.

    The last item of every user is for test, the last but one for validation; all items of the domain are ranked, those
    of the history included, and beside these figures stand those with the history's items removed, its newest 20.
    Training ends when NDCG@10 of validation stops improving.
    """
    # Imported here so that `unitok --help` stays quick.
    from training.baselines.parameters import read_baseline_parameters  # noqa: PLC0415
    from training.baselines.stage import train_baseline as run  # noqa: PLC0415

    parameters = read_baseline_parameters(config, those_given(seed=seed, threads=threads))
    typer.echo(json.dumps(run(dataset, domain, out, parameters, max_users)))
