"""Builds a checked configuration of `prepare` from a TOML file, from options, or from a folder in our layout.

Knows nothing of the contents of the files that it names.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from service.errors import ConfigError
from training.configuration import problems, read_toml
from training.data.config import DomainConfig, InteractionColumns, ItemColumns, PrepareConfig


def parse_config(values: dict[str, Any], origin: str, base: Path | None = None) -> PrepareConfig:
    """Validate a configuration and check that its files exist.

    Parameters
    ----------
    values : keys and values as read from TOML
    origin : their source, for messages
    base : folder that paths are relative to; None: the working folder

    Raises
    ------
    ConfigError : a key is unknown, a value wrong or a file missing; names it
    """
    try:
        config = PrepareConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {problems(error, 'configuration')}") from None
    if base is not None:
        config = PrepareConfig(domains=tuple(_based(domain, base) for domain in config.domains))
    for domain in config.domains:
        for path in (*domain.items, *domain.interactions):
            if not path.is_file():
                raise ConfigError(f"{origin}: domain {domain.name!r}: {path}: no such file")
    return config


def read_config(path: Path) -> PrepareConfig:
    """Read a TOML file; paths in it are relative to its folder.

    Raises
    ------
    ConfigError : the file is missing or is not TOML, or `parse_config` refuses its contents
    """
    return parse_config(read_toml(path), str(path), path.parent)


def parse_map(entries: list[str]) -> dict[str, dict[str, str]]:
    """Parse column names from the command line: `item_id=asin` for both kinds of files, `items.title=name` for one.

    Returns
    -------
    values for the key `map` of a domain

    Raises
    ------
    ConfigError : an entry is not OURS=THEIRS, or OURS is not a field
    """
    fields = {"items": set(ItemColumns.model_fields), "interactions": set(InteractionColumns.model_fields)}
    mapping: dict[str, dict[str, str]] = {"items": {}, "interactions": {}}
    for entry in entries:
        ours, equals, theirs = entry.partition("=")
        table, dot, name = ours.rpartition(".")
        tables = [known for known in fields if (not dot or known == table) and name in fields[known]]
        if not (equals and theirs and tables):
            names = ", ".join(sorted(set.union(*fields.values())))
            raise ConfigError(
                f"--map {entry}: OURS=THEIRS is expected, where OURS is one of {names}, "
                "with items. or interactions. before it where it means one kind of file"
            )
        for known in tables:
            mapping[known][name] = theirs
    return mapping


def parquet_config(root: Path, domains: Sequence[str], sort_categories: Collection[str] = ()) -> PrepareConfig:
    """Configuration of a folder in our layout: `ROOT/DOMAIN/items.parquet` and `ROOT/DOMAIN/interactions.parquet`.

    Parameters
    ----------
    root : the folder
    domains : names of the domains to use, in this order
    sort_categories : those whose order of categories has no meaning

    Raises
    ------
    ConfigError : a file is missing, or `sort_categories` names a domain that is not in `domains`
    """
    unknown = sorted(set(sort_categories) - set(domains))
    if unknown:
        raise ConfigError(f"--sort-categories {unknown[0]!r}: not among the domains, which are {', '.join(domains)}")
    values = [
        {
            "name": name,
            "format": "parquet",
            "items": str(root / name / "items.parquet"),
            "interactions": str(root / name / "interactions.parquet"),
            "sort_categories": name in sort_categories,
        }
        for name in domains
    ]
    return parse_config({"domains": values}, "--parquet")


def _based(domain: DomainConfig, base: Path) -> DomainConfig:
    return domain.model_copy(
        update={
            "items": tuple(base / path for path in domain.items),
            "interactions": tuple(base / path for path in domain.interactions),
        }
    )
