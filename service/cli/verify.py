"""`unitok verify`: repeat a bundle's proof on this machine, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def verify(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle, such as models/sample.")],
    *,
    provider: Annotated[
        Literal["cpu", "cuda"], typer.Option(help="Where the graphs run; never a silent fallback.")
    ] = "cpu",
    threads: Annotated[int, typer.Option(min=0, help="Threads of one operator; 0 takes every core.")] = 0,
) -> None:
    """Check that a bundle is whole and answers on this machine as it was proven to when it was exported.

    Compares every file's hash and every graph's signature, then runs the graphs on inputs stored in the bundle: text
    vectors, semantic IDs and ranked lists must come out as stored, and every recommended item must exist. Prints one
    line a check and ends with status 1 at the first that fails, naming the tensor.
    """
    # Imported here so that `unitok --help` stays fast.
    from service.verifying import verify as checks

    for check in checks(bundle, provider, threads):
        typer.echo(f"ok  {check.name}: {check.what}")
