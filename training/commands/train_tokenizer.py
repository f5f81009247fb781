"""`unitok train-tokenizer`: learn semantic IDs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def train_tokenizer(
    dataset: Annotated[Path, typer.Argument(help="Folder that `unitok prepare` wrote.")],
    embeddings: Annotated[Path, typer.Argument(help="Folder that `unitok embed` wrote: `<domain>.npy` each.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder for the tokenizer, the IDs and the figures.")],
    config: Annotated[
        Path | None,
        typer.Option(
            help='TOML file of parameters, such as `epochs = 20` or `train_domains = ["books"]`; an unknown key is an '
            "error that lists the known ones. Without it, the defaults (docs/tokenizers.md).",
            show_default=False,
        ),
    ] = None,
    train_domains: Annotated[
        list[str] | None,
        typer.Option(
            "--train-domain",
            help="Learn from this domain; repeat for several. One expert each; the other domains only get IDs, as new "
            "catalogues would. Overrides the configuration; without either, every domain is learned from.",
            show_default=False,
        ),
    ] = None,
    reuse: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a tokenizer that was trained before, with the same parameters: nothing is learned, and the "
            "items of this dataset, which may have more domains, get their IDs.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Learn one tokenizer for all domains and give every item its semantic ID.

    Codes start as k-means in the latent space of a briefly trained autoencoder and are then learned together with it.
    A killed run resumes from its last finished epoch when it is started again. Look at `figures.json`: the items
    sharing an ID beyond equal content, and the codes used by each level, say how good the IDs are.
    """
    # Imported here so that `unitok --help` stays quick.
    from training.tokenizer import stage  # noqa: PLC0415
    from training.tokenizer.configuration import read_stage_parameters  # noqa: PLC0415

    overrides = {"train_domains": tuple(train_domains)} if train_domains else {}
    figures = stage.train_tokenizer(dataset, embeddings, out, read_stage_parameters(config, overrides), reuse)
    typer.echo(json.dumps({key: value for key, value in figures.items() if key not in ("log", "parameters")}))
