"""Converters of single values of source records: text, categories, numbers, timestamps.

Knows nothing of files, nor of which field a value belongs to.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, date, datetime

from service.errors import shown
from service.items import distinct_categories, is_rounded
from training.data.report import Kind

_PRICE = re.compile(r"[$€£]?\s*(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)")

MILLISECONDS = {"s": 1000.0, "ms": 1.0}
"""Milliseconds per unit of time."""

Converter = Callable[[object], object]
"""Converts a value of a record into one of our type, None if it is empty; raises `BadValue` if it does not fit."""


class BadValue(ValueError):
    """A value that does not fit its field.

    Parameters
    ----------
    kind : kind of problem
    reason : what was found, and what would be right
    notice : the value is only reported and does not stop the stage
    """

    def __init__(self, kind: Kind, reason: str, notice: bool = False) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.notice = notice


def as_text(value: object) -> str | None:
    """Text of a string, a number or a list of these; None for null and NaN."""
    if isinstance(value, str):
        if not value.isascii():
            try:
                value.encode("utf-8")
            except UnicodeEncodeError as error:
                raise BadValue(
                    Kind.BROKEN_ENCODING, f"character {error.start} is half a surrogate pair; text must be valid UTF-8"
                ) from None
        return value
    if value is None or value != value:  # noqa: PLR0124 - NaN, which other tools write for null
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, list | tuple):
        return " ".join(filter(None, map(as_text, value)))
    raise BadValue(Kind.MALFORMED_LINE, f"{shown(value)} is of type {type(value).__name__}; text is expected")


def as_id(value: object) -> str | None:
    """Text of an id; an id that was rounded to a float is refused."""
    if is_rounded(value):
        raise BadValue(
            Kind.BAD_NUMBER, f"{shown(value)} is an id that was rounded to a float; write ids of so many digits as text"
        )
    return as_text(value)


def as_categories(separator: str | None) -> Converter:
    """Converter for categories: a list, a list of lists (paths in a tree), or one string with a separator.

    The result is a list without duplicates, in order of first occurrence.
    """

    def convert(value: object) -> list[str]:
        found: list[str | None]
        if isinstance(value, list | tuple):
            found = [name for part in value for name in (convert(part) if isinstance(part, list) else [as_text(part)])]
        else:
            text = as_text(value)
            found = [text] if text is None or separator is None else [*text.split(separator)]
        return list(distinct_categories(filter(None, found)))

    return convert


def as_number(value: object) -> float | None:
    """A number, or text that is one; NaN and infinities pass, since later checks report them with the valid range."""
    if value is None or value == "":
        return None
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    raise BadValue(Kind.BAD_NUMBER, f"{shown(value)} is not a number")


def as_price(value: object) -> float | None:
    """A number, or text like `$1,299.00`."""
    if isinstance(value, str) and (match := _PRICE.fullmatch(value.strip())):
        return float(match[1].replace(",", ""))
    return as_number(value)


def as_listed_price(value: object) -> float | None:
    """Price of a raw Amazon listing: the lower end of a range; other content is a notice, not a problem.

    These fields contain remnants of web pages, and no encoder reads the price.
    """
    if isinstance(value, str):
        value = value.split(" - ")[0].removeprefix("from ").strip()
        if value in ("", "—"):
            return None
    try:
        price = as_price(value)
    except BadValue as bad:
        raise BadValue(bad.kind, bad.reason, notice=True) from None
    if price is not None and not 0 <= price < math.inf:
        raise BadValue(Kind.BAD_NUMBER, f"{shown(value)} is no price", notice=True)
    return price


def as_milliseconds(unit: str) -> Converter:
    """Converter for timestamps: a number in `unit` ("s" or "ms"), or an ISO 8601 date, in UTC if it has no time zone.

    Text that is a number is read as a number, although some such texts are also ISO 8601 dates without dashes.
    """
    factor = MILLISECONDS[unit]

    def convert(value: object) -> float | None:
        try:
            number = None if isinstance(value, date) else as_number(value)
        except BadValue as bad:
            if not isinstance(value, str):
                raise
            try:
                value = datetime.fromisoformat(value.strip())
            except ValueError:
                raise BadValue(bad.kind, f"{shown(value)} is neither a number nor an ISO 8601 date") from None
        if isinstance(value, date):
            moment = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000.0
        return None if number is None else number * factor

    return convert
