"""`unitok keys`: API keys of the service. Independent of where an operator keeps them."""

from __future__ import annotations

from typing import Annotated

import typer

from service.access.keys import KeyScope, new_key

keys = typer.Typer(help="Make API keys for the service.", no_args_is_help=True)


@keys.callback()
def about() -> None:
    """Make API keys for the service."""


@keys.command()
def new(
    name: Annotated[str, typer.Argument(help="Stands for the key in logs and metrics, such as `shop`.")],
    scope: Annotated[list[KeyScope], typer.Option(help="What the key may do; may be repeated.")],
    rate: Annotated[
        float | None,
        typer.Option(help="Items a second; without it, the service's UNITOK_RATE_ITEMS_PER_SECOND counts."),
    ] = None,
) -> None:
    """Print a new key, for its user alone, and the entry that makes the service know it.

    The entry holds a digest, from which the key cannot be found again: a lost key is replaced by a new one.
    """
    made = new_key(name, scope, rate)
    typer.echo(f"key:   {made.secret}")
    typer.echo(f"entry: {made.entry}")
