"""Turns text published by shops into plain text: unescapes entities, strips tags, drops placeholder titles.

Knows nothing of the records with the text.
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
"""A title of these characters alone counts as missing; other punctuation may be a name (`!!!` is a band)."""

_PAGE_REMNANTS = ("var aPageStart", "getTime()")
"""Pieces of page script that crawlers stored as titles, found in the 2018 Amazon metadata."""


def clean_text(text: str | None) -> str | None:
    """Plain text with collapsed whitespace; None if nothing is left.

    Entities are unescaped twice, since some shops escape them twice. Tags that end a line or a cell are replaced by a
    space, others (`H<sub>2</sub>O`) are removed.
    """
    if text is None:
        return None
    if "&" in text:
        text = html.unescape(html.unescape(text))
    if "<" in text:
        text = _TAG.sub("", _BLOCK_TAG.sub(" ", _HIDDEN.sub(" ", text)))
    return " ".join(text.split()) or None


def clean_title(title: str | None) -> str | None:
    """`clean_text`, but None for placeholders of a missing title: `NaN`, `n/a`, `---`, pieces of script."""
    if title is None or any(remnant in title for remnant in _PAGE_REMNANTS):
        return None
    title = clean_text(title)
    if title is None or title.casefold() in _PLACEHOLDERS or not title.strip(_DASHES):
        return None
    return title


def clean_categories(categories: list[str] | None) -> list[str]:
    """`clean_text` of each category, without duplicates."""
    return list(distinct_categories(filter(None, map(clean_text, categories or ()))))
