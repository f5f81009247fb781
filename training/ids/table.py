"""Semantic IDs of a catalogue: the suffixes of items with equal codes, and the table of all IDs.

Items of one domain with equal codes and experts get the suffixes 0, 1, 2, ... in the order of their rows. Knows nothing
of networks.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from service.errors import ConfigError, SuffixExhausted
from service.id_columns import from_lists, to_lists
from service.parquet import PARQUET_ERRORS
from service.semantic_ids import IntArray
from training.ids.counts import groups_of
from training.stage import replacing

IDS = "ids.parquet"


def contents_of(texts: Sequence[str]) -> NDArray[np.int64]:
    """Number the contents of n items: int64 [n], equal for equal composed texts.

    Texts that differ only in capitals, accents or spaces count as equal: text encoders read them alike, so no tokenizer
    can distinguish them, and different codes would carry no information. An empty text says nothing about its item, so
    it equals no other text, not even another empty one.
    """
    said = np.asarray([plain_text(text) for text in texts], dtype=object)
    contents = np.unique(said, return_inverse=True)[1].reshape(-1).astype(np.int64)
    empty = np.flatnonzero([not text for text in texts])
    contents[empty] = len(texts) + np.arange(len(empty))
    return contents


def plain_text(text: str) -> str:
    """The text without capitals, accents and repeated spaces."""
    if not text.isascii():
        text = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return " ".join(text.casefold().split())


def suffixes_of(domain: str, codes: IntArray, experts: IntArray, suffixes: int) -> IntArray:
    """Suffixes int32 [n] for codes [n, L] and experts [n, N] of one domain.

    Parameters
    ----------
    suffixes : number of suffixes in the token layout

    Raises
    ------
    SuffixExhausted : more items than this have equal codes and experts; names domain, codes and size
    """
    groups = groups_of(np.concatenate([codes, experts], axis=1))
    order = np.argsort(groups, kind="stable")
    sizes = np.bincount(groups)
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    result = np.empty(len(groups), dtype=np.int32)
    result[order] = np.arange(len(groups)) - starts
    if len(sizes) and sizes.max() > suffixes:
        row = int(np.argmax(groups == sizes.argmax()))
        raise SuffixExhausted(
            f"{domain}: {sizes.max()} items have codes {codes[row].tolist()} and experts {experts[row].tolist()}, "
            f"but the layout has {suffixes} suffixes; raise `suffixes` or remove duplicate items"
        )
    return result


BROKEN: tuple[type[BaseException], ...] = (*PARQUET_ERRORS, ValueError, TypeError)
"""Errors of reading a broken file, or one with other columns."""


@dataclass(frozen=True)
class DomainIds:
    """IDs of one domain, by item row.

    Attributes
    ----------
    domain : its name
    item_ids : n strings
    codes, experts, suffix : int32 [n, L], [n, N], [n]
    """

    domain: str
    item_ids: Sequence[str]
    codes: IntArray
    experts: IntArray
    suffix: IntArray


def write_ids(folder: Path, domains: Sequence[DomainIds]) -> None:
    """Write `ids.parquet`: domain, item_id, codes, experts, suffix; domains back to back, rows in item order."""
    frames = [
        pl.DataFrame(
            {
                "domain": [ids.domain] * len(ids.item_ids),
                "item_id": list(ids.item_ids),
                "codes": to_lists(ids.codes),
                "experts": to_lists(ids.experts),
                "suffix": pl.Series(ids.suffix, dtype=pl.Int32),
            },
            schema_overrides={"domain": pl.String, "item_id": pl.String},
        )
        for ids in domains
    ]
    with replacing(folder / IDS) as partial:
        pl.concat(frames).write_parquet(partial)


def read_ids(folder: Path) -> dict[str, DomainIds]:
    """Read `ids.parquet` of a tokenizer's folder, by domain.

    Raises
    ------
    ConfigError : there is no such file, or it cannot be used
    """
    path = folder / IDS
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; `unitok train-tokenizer` writes it")
    try:
        return ids_of(pl.read_parquet(path, glob=False))
    except BROKEN as error:
        raise ConfigError(f"{path}: not the IDs that `unitok train-tokenizer` writes: {error}") from None


def ids_of(table: pl.DataFrame) -> dict[str, DomainIds]:
    """IDs by domain, from the columns that `write_ids` writes.

    Raises
    ------
    ValueError, TypeError : a value is missing or of a wrong type
    """
    for column in ("domain", "item_id", "suffix"):
        if table[column].has_nulls():
            raise ValueError(f"column {column!r}, row {table[column].is_null().arg_max()}: the value is missing")
    return {
        str(name): DomainIds(
            str(name),
            rows["item_id"].to_list(),
            from_lists(rows["codes"], rows["codes"].list.len()[0]),
            from_lists(rows["experts"], rows["experts"].list.len()[0]),
            rows["suffix"].to_numpy().astype(np.int32),
        )
        for (name,), rows in table.partition_by("domain", as_dict=True, maintain_order=True).items()
    }
