"""`unitok prepare`: from source files to a dataset folder.

Knows nothing of formats and checks; turns the command line into a configuration.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.errors import ConfigError
from training.commands.options import names_in, those_given

if TYPE_CHECKING:
    from training.data.config import PrepareConfig


def prepare(
    config: Annotated[
        Path | None,
        typer.Argument(help="TOML file that lists the domains (docs/data.md). Or use the options below instead."),
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="Folder for the dataset; created if need be.", show_default=False)],
    parquet: Annotated[
        Path | None,
        typer.Option(help="Folder with our layout: ROOT/DOMAIN/items.parquet and ROOT/DOMAIN/interactions.parquet."),
    ] = None,
    domains: Annotated[
        str | None, typer.Option(help="With --parquet: domains to take, separated by commas. Default: every folder.")
    ] = None,
    sort_categories: Annotated[
        str | None,
        typer.Option(
            help="With --parquet: domains, separated by commas, the order of whose categories means nothing, as that "
            "of tags. Items that differ in it alone are then of equal content."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="One domain from files: its name.")] = None,
    format: Annotated[
        str | None,
        typer.Option(help="Its format: parquet, csv, jsonl, amazon-2014, amazon-2018 or amazon-2023."),
    ] = None,
    items: Annotated[list[Path] | None, typer.Option(help="Its item files (repeat the option for several).")] = None,
    interactions: Annotated[
        list[Path] | None, typer.Option(help="Its interaction files (repeat the option for several).")
    ] = None,
    map: Annotated[
        list[str] | None,
        typer.Option(
            help="OURS=THEIRS where a column has another name, for instance item_id=asin; "
            "items.title=name and interactions.timestamp=time name one kind of file."
        ),
    ] = None,
    k_core: Annotated[
        int | None,
        typer.Option(
            help="Drop users and items with fewer interactions, until none is left; 0 keeps all. "
            "Default: 5 for the Amazon formats, else 0."
        ),
    ] = None,
    timestamp_unit: Annotated[str | None, typer.Option(help="Unit of numeric timestamps: s or ms. Default: s.")] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Go on without the bad rows; they are counted in figures.json.")
    ] = False,
    examples: Annotated[int, typer.Option(min=0, help="Examples of each kind of problem in report.json.")] = 20,
) -> None:
    """Read items and interactions of one or many domains, check them, and write one dataset.

    Bad data stops the command with a table of what is wrong; `report.json` names file, row, field and reason.

    **Examples**

    `unitok prepare domains.toml --out data/prepared`

    `unitok prepare --parquet data/raw --domains books,games --sort-categories games --out data/prepared`

    `unitok prepare --name shop --format csv --items items.csv --interactions log.csv --map item_id=sku --out data/shop`
    """
    # Imported here so that `unitok --help` stays quick.
    from training.data.prepare import prepare as run  # noqa: PLC0415

    given = those_given(
        name=name,
        format=format,
        items=items,
        interactions=interactions,
        map=map,
        k_core=k_core,
        timestamp_unit=timestamp_unit,
    )
    sources = [source for source, used in (("CONFIG", config), ("--parquet", parquet), ("--name", given)) if used]
    if len(sources) != 1:
        raise ConfigError(
            f"{' and '.join(sources) or 'no source'} given; give exactly one of CONFIG, --parquet ROOT, "
            "or --name with --format, --items, --interactions"
        )
    if domains is not None and parquet is None:
        raise ConfigError("--domains chooses among the folders of --parquet; leave it out")
    if sort_categories is not None and parquet is None:
        raise ConfigError("--sort-categories goes with --parquet; in a file it is a key of each domain (docs/data.md)")
    configuration = _configuration(config, parquet, domains, sort_categories, given)
    figures = run(configuration, out, skip_bad=skip_bad, examples=examples)
    typer.echo(json.dumps(figures))


def _configuration(
    config: Path | None, parquet: Path | None, domains: str | None, sort_categories: str | None, given: dict[str, Any]
) -> PrepareConfig:
    """The configuration of whichever source was given."""
    from training.data.configuring import parquet_config, parse_config, parse_map, read_config  # noqa: PLC0415

    if config is not None:
        return read_config(config)
    if parquet is None:
        mapping = {"map": parse_map(given["map"])} if "map" in given else {}
        return parse_config({"domains": [given | mapping]}, "command line")
    if domains is not None:
        chosen = names_in(domains)
    else:
        chosen = tuple(sorted(path.parent.name for path in parquet.glob("*/items.parquet")))
        if not chosen:
            raise ConfigError(f"--parquet {parquet}: no folder in it has an items.parquet")
    return parquet_config(parquet, chosen, names_in(sort_categories or ""))
