"""Turns a domain's two raw tables into the two tables of a dataset: checks across rows, k-core, order.

Knows nothing of file formats.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from service.catalogue.store_rules import MAX_NAME_BYTES
from service.errors import SHOWN_CHARACTERS
from service.items import ItemContent, compose_text
from service.limits import ITEM_ID_PATTERN, ITEM_ID_RULE
from training.data.cleaning import clean_categories, clean_text, clean_title
from training.data.config import DomainConfig
from training.data.core import core_mask, number
from training.data.dataset import INTERACTION_SCHEMA, ITEM_SCHEMA
from training.data.report import Findings, Kind, Problem
from training.data.sieve import Sieve
from training.data.split import MIN_INTERACTIONS
from training.data.tables import PLACE, RawTable

LAST_MOMENT = 253_402_300_800_000
"""Milliseconds from 1970 to the year 10000; timestamps from here on are errors."""

OUTSIDE_CORE = "outside the k-core"

_UNUSABLE_ID = ~pl.col("item_id").str.contains(ITEM_ID_PATTERN) | (pl.col("item_id").str.len_bytes() > MAX_NAME_BYTES)
"""Matches ids that no request could name, or no store could hold, in service."""


@dataclass(frozen=True)
class CheckedDomain:
    """A domain ready to be written.

    Attributes
    ----------
    items, interactions : columns of `ITEM_SCHEMA`, `INTERACTION_SCHEMA`; order of users and items as in the source
    figures : counts of what was read, dropped and kept
    """

    items: pl.DataFrame
    interactions: pl.DataFrame
    figures: dict[str, Any]


def check_domain(config: DomainConfig, items: RawTable, interactions: RawTable, findings: Findings) -> CheckedDomain:
    """Check a domain, drop its bad rows, and put every user's interactions in order.

    Parameters
    ----------
    items, interactions : as read; empty if the configuration names no files
    findings : collects all problems
    """
    kept = Sieve(interactions, findings)
    order = _check_interactions(kept)
    users_read = kept.frame["user_id"].n_unique()
    if config.core:
        _keep_core(kept, config.core)
    catalogue = items if config.items else _items_of(interactions, kept.frame)
    listed = Sieve(catalogue, findings)
    if config.core:
        listed.remove(~pl.col("item_id").is_in(kept.frame["item_id"].unique().implode()), OUTSIDE_CORE)
    known = _check_items(listed, config)
    _check_references(kept, listed, known)
    if config.core:
        _keep_core(kept, config.core)
        listed.remove(~pl.col("item_id").is_in(kept.frame["item_id"].unique().implode()), OUTSIDE_CORE)
    ordered = _in_order(kept.frame, order)
    users = ordered["user_id"].n_unique()
    short = _check_lengths(kept, config, users_read - users, findings)
    if listed.frame.is_empty() or (config.interactions and ordered.is_empty()):
        reason = "no items or no interactions left; see its other problems, or leave the domain out"
        findings.add(Problem(Kind.EMPTY_DOMAIN, "", None, None, reason))
    figures = {
        "items": len(listed.frame),
        "users": users,
        "interactions": len(ordered),
        "users_in_training_only": short,
        "k_core": config.core,
        "order": order,
        "items_read": catalogue.read,
        "interactions_read": interactions.read,
        "items_lost": listed.counts(),
        "interactions_lost": kept.counts(),
    }
    return CheckedDomain(listed.frame.select(*ITEM_SCHEMA), ordered, figures)


def _check_interactions(kept: Sieve) -> str:
    """Check single interactions; returns what they are sorted by: "position", "timestamp" or "file"."""
    for column in ("user_id", "item_id"):
        _drop_missing(kept, column)
    columns = kept.frame
    order = next((name for name in ("position", "timestamp") if columns[name].count()), "file")
    if order != "file":
        _drop_missing(kept, order)
    position, moment, rating = pl.col("position"), pl.col("timestamp"), pl.col("rating")
    bad_position = ~(position.is_finite() & position.is_between(0, 2**31 - 1) & (position == position.floor()))
    reason = pl.format("{} is no position; positions are whole numbers from 0", position)
    kept.drop(bad_position, Kind.BAD_NUMBER, "position", reason)
    bad_moment = ~(moment.is_finite() & moment.is_between(0, LAST_MOMENT, closed="left"))
    reason = pl.format(
        "{} s is not between the years 1970 and 10000; is timestamp_unit (s or ms) right?", moment / 1000
    )
    (kept.drop if order == "timestamp" else kept.empty)(bad_moment, Kind.BAD_NUMBER, "timestamp", reason)
    kept.empty(~rating.is_finite(), Kind.BAD_NUMBER, "rating", pl.format("{} is no rating", rating))
    return order


def _items_of(interactions: RawTable, kept: pl.DataFrame) -> RawTable:
    """The items that interactions name, without any content, in order of first appearance."""
    first = kept.unique("item_id", keep="first", maintain_order=True).select(*PLACE, "item_id")
    content = (
        pl.lit(None, dtype).alias(name) for name, dtype in ITEM_SCHEMA.items() if name not in ("item_id", "price")
    )
    frame = first.with_columns(*content, pl.lit(None, pl.Float64).alias("price"))
    names = {name: interactions.names.get(name, name) for name in ITEM_SCHEMA}
    return RawTable(frame, interactions.files, names, read=len(frame), dropped=Counter(), emptied=Counter())


def _check_items(listed: Sieve, config: DomainConfig) -> pl.Series:
    """Check items and clean their text; returns all listed ids, including those of dropped items."""
    _drop_missing(listed, "item_id")
    known = listed.frame["item_id"].unique()
    reason = pl.format(
        f"item {{}}: an item_id {ITEM_ID_RULE}, and at most {MAX_NAME_BYTES} bytes in UTF-8",
        pl.col("item_id").str.slice(0, SHOWN_CHARACTERS),
    )
    listed.drop(_UNUSABLE_ID, Kind.BAD_ITEM_ID, "item_id", reason)
    again = ~pl.col("item_id").is_first_distinct()
    listed.frame = listed.frame.with_columns(
        pl.col("row").first().over("item_id").alias("first_row"),
        pl.col("file").first().over("item_id").replace_strict(listed.files, return_dtype=pl.String).alias("first_file"),
    )
    reason = pl.format(
        "item {} was given before, in row {} of {}; ids are unique within a domain",
        "item_id",
        "first_row",
        "first_file",
    )
    listed.drop(again, Kind.DUPLICATE_ITEM, "item_id", reason)
    if config.cleans_text:
        listed.frame = _cleaned(listed.frame)
    if config.sort_categories:
        listed.frame = listed.frame.with_columns(pl.col("categories").list.sort())
    if config.needs_text:
        reason = pl.format("item {} has no title, brand, categories or description; one is needed", "item_id")
        listed.drop(~_has_text(listed.frame), Kind.ITEM_WITHOUT_TEXT, "item_id", reason)
    price = pl.col("price")
    bad_price = ~(price.is_finite() & (price >= 0))
    listed.empty(bad_price, Kind.BAD_NUMBER, "price", pl.format("{} is no price; leave it empty if unknown", price))
    return known


def _cleaned(items: pl.DataFrame) -> pl.DataFrame:
    texts = pl.String()
    return items.with_columns(
        pl.Series("title", map(clean_title, items["title"]), texts),
        pl.Series("brand", map(clean_text, items["brand"]), texts),
        pl.Series("description", map(clean_text, items["description"]), texts),
        pl.Series("categories", [clean_categories(names) for names in items["categories"].to_list()], pl.List(texts)),
    )


def _has_text(items: pl.DataFrame) -> pl.Series:
    """Whether the text recipe gives a non-empty text for each item: bool [items]."""
    columns = items.select("title", "brand", "categories", "description")
    texts = (compose_text(ItemContent(t, b, tuple(filter(None, c or ())), d)) for t, b, c, d in columns.iter_rows())
    return pl.Series([bool(text) for text in texts], dtype=pl.Boolean)


def _check_references(kept: Sieve, listed: Sieve, known: pl.Series) -> None:
    """Drop interactions whose item is not listed (a problem), then those whose item was dropped (already reported)."""
    reason = pl.format("item {} is not among the items", "item_id")
    kept.drop(~pl.col("item_id").is_in(known.implode()), Kind.UNKNOWN_ITEM, "item_id", reason)
    kept.remove(_UNUSABLE_ID, Kind.BAD_ITEM_ID.value)
    left = listed.frame["item_id"].implode()
    kept.remove(~pl.col("item_id").is_in(left), Kind.ITEM_WITHOUT_TEXT.value)


def _keep_core(kept: Sieve, k: int) -> None:
    mask = core_mask(number(kept.frame["user_id"]), number(kept.frame["item_id"]), k)
    kept.remove(pl.Series(~mask), OUTSIDE_CORE)


def _check_lengths(kept: Sieve, config: DomainConfig, users_lost: int, findings: Findings) -> int:
    """Report users with too short a history; returns how many are left in training only.

    With a k-core, whose purpose is to remove such users, this is only a notice. Otherwise it is a problem; with
    `--skip-bad` the users stay, and their interactions are used for training alone.
    """
    if config.core and users_lost:
        removed = f"{users_lost:,} users are outside the {config.core}-core and were removed"
        example = Problem(Kind.SHORT_HISTORY, "", None, None, removed)
        findings.add_many(Kind.SHORT_HISTORY, users_lost, [example], notice=True)
    kept.frame = kept.frame.with_columns(pl.len().over("user_id").alias("length"))
    short = (pl.col("length") < MIN_INTERACTIONS) & pl.col("user_id").is_first_distinct()
    reason = pl.format(
        f"user {{}} has {{}} of the {MIN_INTERACTIONS} interactions that a test and a validation item take",
        "user_id",
        "length",
    )
    return kept.report(short, Kind.SHORT_HISTORY, "user_id", reason, notice=bool(config.core))


def _in_order(interactions: pl.DataFrame, order: str) -> pl.DataFrame:
    """Users in order of first appearance, the interactions of each sorted by `order`; ties stay as in the file."""
    users = number(interactions["user_id"])
    by = [users] if order == "file" else [interactions[order].to_numpy(), users]
    ordered = interactions[np.lexsort(by)]
    users = np.sort(users)
    starts = np.searchsorted(users, users)
    columns = ordered.with_columns(
        pl.Series("position", np.arange(len(users)) - starts, pl.Int32),
        (pl.col("timestamp") / 1000).floor().cast(pl.Int64),
        pl.col("rating").cast(pl.Float32),
    )
    return columns.select(*INTERACTION_SCHEMA)


def _drop_missing(rows: Sieve, column: str) -> None:
    missing = pl.col(column).is_null()
    if rows.frame.schema[column] == pl.String:
        missing |= pl.col(column) == ""
    rows.drop(missing, Kind.MISSING_VALUE, column, pl.lit("empty; every row needs a value here"))
