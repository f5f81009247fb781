"""The configuration of `prepare` as a strict schema: which domains, in which files, in which format.

An unknown key, or an option that the format would ignore, is an error that names it. Knows nothing of where a
configuration comes from, nor of the files' contents.
"""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from service.limits import DOMAIN_PATTERN, DOMAIN_RULE
from training.configuration import Natural
from training.data.dataset import INDEX
from training.data.report import REPORT
from training.stage import FIGURES

AMAZON_CORE = 5
"""Default of `k_core` for the raw Amazon formats: the published sets are 5-core sets."""


class Format(StrEnum):
    """Formats that `prepare` reads."""

    PARQUET = "parquet"
    CSV = "csv"
    JSONL = "jsonl"
    AMAZON_2014 = "amazon-2014"
    AMAZON_2018 = "amazon-2018"
    AMAZON_2023 = "amazon-2023"

    @property
    def is_amazon(self) -> bool:
        """Whether it is a raw Amazon format, whose columns are fixed."""
        return self in (Format.AMAZON_2014, Format.AMAZON_2018, Format.AMAZON_2023)


class ConfigModel(BaseModel):
    """Base class of all parts: unknown keys are refused, values are not coerced."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _paths(value: Any) -> Any:
    """One path or a list of paths as a tuple of paths; anything else is returned as is, and the schema refuses it."""
    values = [value] if isinstance(value, str | Path) else value
    if isinstance(values, list | tuple):
        return tuple(Path(path) if isinstance(path, str) else path for path in values)
    return value


def _tuple(value: Any) -> Any:
    """A list, as TOML has it, as a tuple."""
    return tuple(value) if isinstance(value, list) else value


def _domain_name(value: str) -> str:
    """A name that the service accepts, and whose folder does not clash with a file of the dataset."""
    if not re.fullmatch(DOMAIN_PATTERN, value):
        raise ValueError(f"{value!r} {DOMAIN_RULE}")
    if value.startswith((INDEX, REPORT, FIGURES)):
        raise ValueError(f"{value!r}: the dataset has a file of that name; choose another name")
    return value


Paths = Annotated[tuple[Path, ...], BeforeValidator(_paths)]
Column = Annotated[str, Field(min_length=1)]


class ItemColumns(ConfigModel):
    """Columns of an item's fields: our name = the name in the file."""

    item_id: Column = "item_id"
    title: Column = "title"
    brand: Column = "brand"
    categories: Column = "categories"
    description: Column = "description"
    price: Column = "price"


class InteractionColumns(ConfigModel):
    """Columns of an interaction's fields: our name = the name in the file."""

    user_id: Column = "user_id"
    item_id: Column = "item_id"
    position: Column = "position"
    timestamp: Column = "timestamp"
    rating: Column = "rating"


class ColumnMap(ConfigModel):
    """Names of columns or keys, if they differ from ours."""

    items: ItemColumns = ItemColumns()
    interactions: InteractionColumns = InteractionColumns()


class DomainConfig(ConfigModel):
    """One domain: its name, its files and how to read them.

    Attributes
    ----------
    name : its name in the service
    format : format of all its files
    items : files of items; if empty, the items are those named in the interactions, without text
    interactions : files of interactions; if empty, the domain has a catalogue and no histories
    map : names of columns, for parquet, csv and jsonl
    k_core : repeatedly drop users and items with fewer interactions until none is left; 0: keep all.
        Default: 5 for the raw Amazon formats, else 0
    category_separator : between categories given as one string
    sort_categories : sort them alphabetically; for categories whose order has no meaning, such as tags, so that items
        that differ only in this order have equal content
    timestamp_unit : of numeric timestamps: seconds or milliseconds
    clean_text : unescape entities, strip tags, drop placeholder titles; default: on for all formats but parquet
    needs_text : report an item without any text as a problem; switch it off if embeddings come from elsewhere
    """

    name: Annotated[str, AfterValidator(_domain_name)]
    format: Annotated[Format, Field(strict=False)]
    items: Paths = ()
    interactions: Paths = ()
    map: ColumnMap = ColumnMap()
    k_core: Natural | None = None
    category_separator: Annotated[str, Field(min_length=1)] = "|"
    sort_categories: bool = False
    timestamp_unit: Literal["s", "ms"] = "s"
    clean_text: bool | None = None
    needs_text: bool = True

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if not self.items and not self.interactions:
            raise ValueError("neither items nor interactions are given; name the files of at least one")
        ignored = self.model_fields_set & {"map", "category_separator", "timestamp_unit"}
        if self.format.is_amazon and ignored:
            raise ValueError(f"{', '.join(sorted(ignored))}: fixed by the format {self.format}; leave it out")
        if self.k_core and not self.interactions:
            raise ValueError("k_core needs interactions, but no file of them is given")
        return self

    @property
    def core(self) -> int:
        """`k_core`, or the format's default."""
        return (
            (AMAZON_CORE if self.format.is_amazon and self.interactions else 0) if self.k_core is None else self.k_core
        )

    @property
    def cleans_text(self) -> bool:
        """`clean_text`, or the format's default."""
        return self.format is not Format.PARQUET if self.clean_text is None else self.clean_text


class PrepareConfig(ConfigModel):
    """All domains of a dataset."""

    domains: Annotated[tuple[DomainConfig, ...], BeforeValidator(_tuple), Field(min_length=1)]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [domain.name for domain in self.domains]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"domain {twice[0]!r} is given twice; names must differ")
        return self
