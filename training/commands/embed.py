"""`unitok embed`: item texts to vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from service.errors import ConfigError


def embed(
    dataset: Annotated[Path, typer.Argument(help="Folder that `unitok prepare` wrote.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder for the vectors, one `<domain>.npy` each, and the encoder.")],
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Text encoder: `minilm` (all-MiniLM-L6-v2 from its wheel, the default), the folder of any "
            "sentence-transformers model, or `static:minilm` / `static:FOLDER` for a token table distilled from it: "
            "some hundred times faster and a few MB in size, less exact.",
            show_default=False,
        ),
    ] = None,
    precomputed: Annotated[
        Path | None,
        typer.Option(
            help="Folder of vectors computed elsewhere, any width: `<domain>.npy` in the row order of items.parquet or "
            "`<domain>.parquet` with item_id and embedding. Name --encoder as well if new items are to be tokenized "
            "from text with the encoder that made them."
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="File of vectors already computed, keyed by encoder and text; shared by runs. A killed run "
            "resumes from it.",
            show_default="OUT/cache.sqlite",
        ),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=8, max=8192, help="Texts are cut to this many tokens.")] = 128,
    provider: Annotated[str, typer.Option(help="Where the encoder runs: `cpu` or `cuda`; never a silent fallback.")] = (
        "cpu"
    ),
    threads: Annotated[int, typer.Option(min=0, help="Threads of the encoder; 0 takes every core.")] = 0,
) -> None:
    """Encode every item's title, brand, categories and description into a vector.

    The encoder is exported to ONNX, checked against the original, and kept beside the vectors: the bundle serves with
    the very same file. Texts are sorted by length and encoded once each.
    """
    # Imported here so that `unitok --help` stays quick.
    from service.engine.sessions import Runtime  # noqa: PLC0415
    from training.data.dataset import Dataset  # noqa: PLC0415
    from training.embed import embed_precomputed, embed_texts  # noqa: PLC0415

    opened = Dataset.open(dataset)
    if precomputed is not None:
        if cache is not None:
            raise ConfigError("--cache has no use with --precomputed: nothing is encoded")
        figures = embed_precomputed(opened, out, precomputed, encoder, max_tokens)
    else:
        if provider not in ("cpu", "cuda"):
            raise ConfigError(f"--provider is {provider!r}, but must be 'cpu' or 'cuda'")
        runtime = Runtime("cuda" if provider == "cuda" else "cpu", threads)
        figures = embed_texts(opened, out, encoder or "minilm", max_tokens=max_tokens, cache=cache, runtime=runtime)
    typer.echo(json.dumps(figures))
