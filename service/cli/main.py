"""The command line `unitok`: one subcommand per stage.

The online subcommands are in this package; the offline ones are found through the entry point group `unitok.commands`,
so the service never names `training`. Independent of what the subcommands do.
"""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from typing import Any, NoReturn

import typer

from service.cli import catalogue, generations
from service.cli.backfill import backfill
from service.cli.keys import keys
from service.cli.recommend import recommend
from service.cli.serve import serve
from service.cli.tokenize import tokenize
from service.cli.verify import verify
from service.errors import UnitokError

PLUGINS = "unitok.commands"
OURS = ("service", "training")


def build() -> typer.Typer:
    """Assemble the command line; offline subcommands come first, in the order of the pipeline."""
    app = typer.Typer(
        name="unitok",
        help="Semantic IDs for recommenders: train one tokenizer for every domain, export it, serve it.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for plugin in sorted(entry_points(group=PLUGINS), key=lambda plugin: plugin.name):
        plugin.load()(app)
    online: dict[str, Any] = {
        "verify": verify,
        "serve": serve,
        "backfill": backfill,
        "tokenize": tokenize,
        "recommend": recommend,
    }
    for name, command in online.items():
        app.command(name, rich_help_panel="Serving")(command)
    app.add_typer(keys, name="keys", rich_help_panel="Serving")
    store = catalogue.build()
    generations.add(store)
    app.add_typer(store, name="catalogue", rich_help_panel="Serving")
    return app


def main() -> None:
    """Run the command line; an expected error prints one line on standard error and exits with status 1."""
    try:
        build()()
    except UnitokError as error:
        _end(str(error))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith(OURS):
            raise
        _end(
            f"this command needs the Python package {error.name!r}, which the serving set does not have; install "
            "everything: make install, or pip install --constraint constraints.txt '.[cpu,train]'"
        )


def _end(message: str) -> NoReturn:
    sys.stderr.write(f"unitok: {message}\n")
    sys.exit(1)


if __name__ == "__main__":
    main()
