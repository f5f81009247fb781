"""Validates a record field by field, and converts it to a row or a rejection.

Text is taken unchanged, as over HTTP. Independent of files, networks and how stores keep items.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.backfill.reading import Record
from service.catalogue.store_rules import MAX_NAME_BYTES
from service.errors import ConfigError, shown
from service.items import ItemContent, compose_text, distinct_categories, is_rounded
from service.limits import ITEM_ID_PATTERN, LEAST_PRICE, MOST_MAGNITUDE, NO_DIRECTION, has_direction

TEXT_FIELDS = ("title", "brand", "categories", "description")
FIELDS = ("item_id", *TEXT_FIELDS, "price", "embedding")
"""Fields of an item; all other columns of a file are ignored."""

CATEGORY_SEPARATOR = "|"
"""Separator of categories in a single string, as in CSV."""


class Kind(StrEnum):
    """Kinds of rejection."""

    MALFORMED_ROW = "malformed_row"
    BROKEN_ENCODING = "broken_encoding"
    BAD_ITEM_ID = "bad_item_id"
    BAD_VALUE = "bad_value"
    NO_TEXT = "no_text"
    BAD_EMBEDDING = "bad_embedding"
    SUFFIX_EXHAUSTED = "suffix_exhausted"


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a row was rejected; `field` is the column's name in the file, None if the whole row is bad."""

    kind: Kind
    row: int
    field: str | None
    reason: str

    def __str__(self) -> str:
        return f"row {self.row}, {f'field {self.field!r}: ' if self.field else ''}{self.reason}"


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """An item to tokenize: by its embedding, float32 [D], if it has one, else by its text."""

    row: int
    item_id: str
    content: ItemContent
    text: str
    embedding: NDArray[np.float32] | None


class _BadField(ValueError):
    def __init__(self, kind: Kind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class RowReader:
    """Turns records into rows.

    Parameters
    ----------
    columns : field name -> column name in the file
    width : D, required width of an embedding
    """

    def __init__(self, columns: Mapping[str, str], width: int) -> None:
        self._columns = columns
        self._width = width

    def read(self, record: Record) -> Row | Rejection:
        """The row, or a rejection for its first error."""
        if record.broken is not None:
            return Rejection(Kind.MALFORMED_ROW, record.row, None, record.broken)
        values: dict[str, Any] = {}
        for name, source in self._columns.items():
            try:
                values[name] = self._converted(name, record.fields.get(source))
            except _BadField as bad:
                return Rejection(bad.kind, record.row, source, str(bad))
            except RecursionError:
                return Rejection(Kind.BAD_VALUE, record.row, source, "is nested too deeply to be read")
        content = ItemContent(
            title=values.get("title"),
            brand=values.get("brand"),
            categories=values.get("categories") or (),
            description=values.get("description"),
            price=values.get("price"),
        )
        text = compose_text(content)
        embedding = values.get("embedding")
        if embedding is None and not text:
            reason = f"has neither an embedding nor text in any of {', '.join(TEXT_FIELDS)}"
            return Rejection(Kind.NO_TEXT, record.row, None, reason)
        return Row(record.row, values["item_id"], content, text, embedding)

    def _converted(self, name: str, value: Any) -> Any:
        if name == "item_id":
            return _item_id(value)
        if name == "categories":
            return distinct_categories(_categories(value))
        if name == "price":
            return _price(value)
        if name == "embedding":
            return _embedding(value, self._width)
        return _text(value)


def read_mapping(pairs: Sequence[str]) -> dict[str, str]:
    """Column of every field, from `FIELD=COLUMN` pairs for those whose column has another name.

    Raises
    ------
    ConfigError : a pair is malformed, names no field, or repeats a field
    """
    columns: dict[str, str] = {}
    for pair in pairs:
        ours, equals, theirs = pair.partition("=")
        if not equals or not theirs or ours not in FIELDS:
            raise ConfigError(f"--map {pair}: must be FIELD=COLUMN with a FIELD of {', '.join(FIELDS)}")
        if ours in columns:
            raise ConfigError(f"--map {pair}: {ours} is mapped already, to {columns[ours]}")
        columns[ours] = theirs
    return {name: columns.get(name, name) for name in FIELDS}


def _text(value: Any) -> str | None:
    """Text of a string, a number or a list of these; None for a missing value."""
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            where = f"character {error.start + 1} of {shown(value)}"
            raise _BadField(Kind.BROKEN_ENCODING, f"{where} is not UTF-8; save the file as UTF-8") from None
        return value
    if value is None or value != value:  # noqa: PLR0124 - NaN, which other tools write for nothing
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, list):
        return " ".join(filter(None, map(_text, value)))
    raise _BadField(Kind.BAD_VALUE, f"{shown(value)} is of type {type(value).__name__}; text is expected")


def _item_id(value: Any) -> str:
    if is_rounded(value):
        raise _BadField(
            Kind.BAD_ITEM_ID,
            f"{shown(value)} is an id that was rounded to a float; write ids of so many digits as text",
        )
    text = _text(value)
    if not text:
        raise _BadField(Kind.BAD_ITEM_ID, "is missing; every item needs a name of its own")
    if not re.fullmatch(ITEM_ID_PATTERN, text):
        raise _BadField(
            Kind.BAD_ITEM_ID,
            f"{shown(text)} has {len(text)} characters, some of them perhaps control characters; at most 256 others "
            "are allowed",
        )
    size = len(text.encode("utf-8"))
    if size > MAX_NAME_BYTES:
        raise _BadField(
            Kind.BAD_ITEM_ID, f"{shown(text)} has {size} bytes in UTF-8, but at most {MAX_NAME_BYTES} are allowed"
        )
    return text


def _categories(value: Any) -> Iterator[str]:
    """Names in a list, in lists in a list (paths in a tree), or in one string with separators."""
    if isinstance(value, list):
        for part in value:
            yield from _categories(part) if isinstance(part, list) else [_text(part) or ""]
    else:
        yield from (_text(value) or "").split(CATEGORY_SEPARATOR)


def _price(value: Any) -> float | None:
    if value is None or value == "":
        return None
    try:
        price: float | None = float(value)
    except (TypeError, ValueError):
        price = None
    except OverflowError:
        price = math.inf
    # Python reads True as 1 and 1_000 as 1000; in a file neither is meant as a number.
    if price is None or isinstance(value, bool) or (isinstance(value, str) and "_" in value):
        raise _BadField(Kind.BAD_VALUE, f"{shown(value)} is no number")
    if math.isnan(price):  # which other tools write for a missing value
        return None
    if price < LEAST_PRICE:
        raise _BadField(Kind.BAD_VALUE, f"{shown(value)} is no price; the least is {LEAST_PRICE:g}")
    if price == math.inf:
        raise _BadField(Kind.BAD_VALUE, f"{shown(value)} is larger than a 64-bit float can be")
    return price


def _embedding(value: Any, width: int) -> NDArray[np.float32] | None:
    """An embedding, float32 [D], from a list of numbers or its JSON text."""
    if value is None or value == "":
        return None
    try:
        numbers = json.loads(value) if isinstance(value, str) else value
        vector = np.asarray(numbers, dtype=np.float64)
    except (TypeError, ValueError):
        raise _BadField(Kind.BAD_EMBEDDING, f"{shown(value)} is no list of numbers") from None
    except OverflowError:
        raise _BadField(Kind.BAD_EMBEDDING, f"{shown(value)} has a number larger than a 64-bit float can be") from None
    if vector.shape != (width,):
        raise _BadField(
            Kind.BAD_EMBEDDING, f"has shape {list(vector.shape)}, but the bundle's embeddings have [{width}]"
        )
    wrong = np.flatnonzero(~(np.abs(vector) <= MOST_MAGNITUDE))
    if wrong.size:
        found = f"number {wrong[0] + 1} of {width} is {vector[wrong[0]]:g}"
        raise _BadField(Kind.BAD_EMBEDDING, f"{found}, but must lie within +-{MOST_MAGNITUDE:g}")
    embedding = vector.astype(np.float32)
    if not has_direction(embedding):
        raise _BadField(Kind.BAD_EMBEDDING, NO_DIRECTION)
    return embedding
