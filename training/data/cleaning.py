"""Text as shops publish it -> plain text: entities unescaped, tags stripped, placeholder titles dropped.

Knows nothing of the records that it stands in.
"""

from __future__ import annotations

import html
import re

from service.items import distinct_categories

_HIDDEN = re.compile(r"<!--.*?-->|<(script|style)\b.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
_BLOCK_TAG = re.compile(r"</?(?:br|p|div|li|ul|ol|tr|td|th|table|h[1-6]|hr)\b[^<>]*>", re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")

_PLACEHOLDERS = frozenset({"nan", "none", "null", "n/a", "no title", "undefined"})
_DASHES = "-\u2013\u2014_./?*# "
"""A title of nothing else stands for a missing one; other signs may be a name (`!!!` is a band)."""

_PAGE_REMNANTS = ("var aPageStart", "getTime()")
"""Script of the shop's page that crawlers stored as the title; known from the 2018 Amazon metadata."""


def clean_text(text: str | None) -> str | None:
    """Plain text with folded whitespace; None where nothing is left.

    Entities are unescaped twice, for shops that escape what is escaped already. Tags that end a line or a cell leave
    a space, others (`H<sub>2</sub>O`) leave nothing.
    """
    if text is None:
        return None
    if "&" in text:
        text = html.unescape(html.unescape(text))
    if "<" in text:
        text = _TAG.sub("", _BLOCK_TAG.sub(" ", _HIDDEN.sub(" ", text)))
    return " ".join(text.split()) or None


def clean_title(title: str | None) -> str | None:
    """`clean_text`, and None for a title that only stands for a missing one: `NaN`, `n/a`, `---`, a piece of script."""
    if title is None or any(remnant in title for remnant in _PAGE_REMNANTS):
        return None
    title = clean_text(title)
    if title is None or title.casefold() in _PLACEHOLDERS or not title.strip(_DASHES):
        return None
    return title


def clean_categories(categories: list[str] | None) -> list[str]:
    """`clean_text` of each, without repetitions."""
    return list(distinct_categories(filter(None, map(clean_text, categories or ()))))
