"""A prepared dataset on disk: the catalogue and the histories of every domain, in arrays.

Written by `prepare`, read by every later stage. The offline half identifies items by their row number in
`items.parquet` ("item row"). Knows nothing of source formats, splits or embeddings.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from service.errors import ConfigError, InvalidInput
from service.items import ItemContent
from service.parquet import PARQUET_ERRORS
from training.stage import replacing, write_atomically

INDEX = "dataset.json"
ITEMS = "items.parquet"
INTERACTIONS = "interactions.parquet"
FORMAT = 1
"""Version of the folder's layout; other versions are refused."""

ITEM_SCHEMA = pl.Schema(
    {
        "item_id": pl.String(),
        "title": pl.String(),
        "brand": pl.String(),
        "categories": pl.List(pl.String()),
        "description": pl.String(),
        "price": pl.Float32(),
    }
)
INTERACTION_SCHEMA = pl.Schema(
    {
        "user_id": pl.String(),
        "item_id": pl.String(),
        "position": pl.Int32(),
        "timestamp": pl.Int64(),
        "rating": pl.Float32(),
    }
)


@dataclass(frozen=True)
class DomainData:
    """One domain: its items, and the history of every user as item rows.

    Attributes
    ----------
    name : the domain
    items : item_id, title, brand, categories, description, price; the row number is the item row
    user_ids : one per user, in the order of `history_starts`
    history_items : int32 [interactions], item rows, users back to back, chronological within a user
    history_starts : int64 [users + 1]; user u owns `history_items[history_starts[u] : history_starts[u + 1]]`
    """

    name: str
    items: pl.DataFrame
    user_ids: list[str]
    history_items: NDArray[np.int32]
    history_starts: NDArray[np.int64]

    @classmethod
    def from_frames(cls, name: str, items: pl.DataFrame, interactions: pl.DataFrame) -> DomainData:
        """Turn the two tables of a domain into arrays.

        Parameters
        ----------
        name : the domain
        items : columns of `ITEM_SCHEMA`
        interactions : columns of `INTERACTION_SCHEMA`; users back to back, positions 0, 1, ... within each

        Raises
        ------
        InvalidInput : an item is listed twice, an interaction names an unknown item, or rows are out of order
        """
        if items["item_id"].n_unique() != len(items):
            twice = items.filter(pl.col("item_id").is_duplicated())["item_id"][0]
            raise InvalidInput(f"{name}: item {twice!r} is listed twice; item ids must be unique within a domain")
        numbered = items.select("item_id", pl.int_range(pl.len(), dtype=pl.Int32).alias("item_row"))
        joined = interactions.select("user_id", "item_id", "position").join(
            numbered, on="item_id", how="left", maintain_order="left"
        )
        if joined["item_row"].null_count():
            unknown = joined.filter(pl.col("item_row").is_null())["item_id"][0]
            raise InvalidInput(f"{name}: an interaction names item {unknown!r}, which is not among the items")
        new_user = (joined["user_id"] != joined["user_id"].shift(1)).fill_null(True).to_numpy()
        firsts = np.flatnonzero(new_user)
        starts = np.append(firsts, len(joined)).astype(np.int64)
        expected = np.arange(len(joined)) - np.repeat(firsts, np.diff(starts))
        user_ids: list[str] = joined["user_id"].gather(firsts).to_list()
        if len(set(user_ids)) != len(user_ids) or not np.array_equal(joined["position"].to_numpy(), expected):
            raise InvalidInput(f"{name}: interactions must be sorted by user, with positions 0, 1, 2, ... in each")
        return cls(name, items, user_ids, joined["item_row"].to_numpy().astype(np.int32), starts)

    @property
    def users(self) -> int:
        """Number of users."""
        return len(self.user_ids)

    def history(self, user: int) -> NDArray[np.int32]:
        """Item rows of one user, oldest first: int32 [interactions of the user]."""
        return self.history_items[self.history_starts[user] : self.history_starts[user + 1]]

    @cached_property
    def item_ids(self) -> list[str]:
        """Item ids by item row."""
        return self.items["item_id"].to_list()

    def contents(self) -> list[ItemContent]:
        """Content of every item, by item row."""
        columns = self.items.select("title", "brand", "categories", "description", "price")
        return [
            ItemContent(title, brand, tuple(categories or ()), description, price)
            for title, brand, categories, description, price in columns.iter_rows()
        ]


@dataclass(frozen=True)
class DomainSummary:
    """Size of a prepared domain."""

    name: str
    items: int
    users: int
    interactions: int


@dataclass(frozen=True)
class Dataset:
    """An opened dataset; domains are read at first access, and cached.

    Attributes
    ----------
    folder : written by `prepare`
    summaries : one per domain, in the order of the configuration
    """

    folder: Path
    summaries: tuple[DomainSummary, ...]
    _loaded: dict[str, DomainData] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, folder: Path) -> Dataset:
        """Open a folder written by `prepare`.

        Raises
        ------
        ConfigError : the folder holds no finished dataset, a damaged one, or one of another version
        """
        path = folder / INDEX
        if not path.is_file():
            raise ConfigError(f"{folder}: no {INDEX}; `unitok prepare` has not finished there")
        try:
            index = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"{path}: is damaged: {error}; prepare anew") from None
        if index.get("format") != FORMAT:
            raise ConfigError(f"{path}: format {index.get('format')!r}, but this version reads {FORMAT}; prepare anew")
        return cls(folder, tuple(DomainSummary(**domain) for domain in index["domains"]))

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains."""
        return tuple(summary.name for summary in self.summaries)

    def __getitem__(self, name: str) -> DomainData:
        if name not in self.domains:
            raise ConfigError(f"{self.folder}: no domain {name!r}; there are {', '.join(self.domains)}")
        if name not in self._loaded:
            items, interactions = (_read(self.folder / name / file) for file in (ITEMS, INTERACTIONS))
            self._loaded[name] = DomainData.from_frames(name, items, interactions)
        return self._loaded[name]

    def __iter__(self) -> Iterator[DomainData]:
        return (self[name] for name in self.domains)

    def __len__(self) -> int:
        return len(self.summaries)


def write_domain(folder: Path, name: str, items: pl.DataFrame, interactions: pl.DataFrame) -> DomainSummary:
    """Write one domain's two tables below a dataset's folder.

    The tables must satisfy `DomainData.from_frames`; columns are cast to the schemas of this module.
    """
    items = items.select(pl.col(column).cast(dtype) for column, dtype in ITEM_SCHEMA.items())
    interactions = interactions.select(pl.col(column).cast(dtype) for column, dtype in INTERACTION_SCHEMA.items())
    data = DomainData.from_frames(name, items, interactions)
    (folder / name).mkdir(parents=True, exist_ok=True)
    for file, table in ((ITEMS, items), (INTERACTIONS, interactions)):
        with replacing(folder / name / file) as partial:
            table.write_parquet(partial)
    return DomainSummary(name, len(items), data.users, len(interactions))


def write_index(folder: Path, summaries: list[DomainSummary]) -> None:
    """Write `dataset.json`, which makes the folder a dataset; call it after the last `write_domain`."""
    index = {"format": FORMAT, "domains": [vars(summary) for summary in summaries]}
    write_atomically(folder / INDEX, json.dumps(index, indent=2) + "\n")


def _read(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path, glob=False)
    except PARQUET_ERRORS as error:
        raise ConfigError(f"{path}: is missing or damaged: {error}; prepare anew") from None
