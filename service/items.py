"""An item's content, and the recipe that turns it into text for the encoder.

Training and serving must compose the same text, or an item would get two semantic IDs. So both use this recipe, and the
manifest records its name. Knows nothing of encoders.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

TEXT_RECIPE = "title-brand-categories-description600"
"""Name of the recipe of `compose_text`, recorded in every manifest."""

DESCRIPTION_CHARACTERS = 600


@dataclass(frozen=True, slots=True)
class ItemContent:
    """The content of an item, without its identity; every field may be absent.

    To be tokenized from text, an item needs at least one of title, brand, categories, description.
    """

    title: str | None = None
    brand: str | None = None
    categories: tuple[str, ...] = ()
    description: str | None = None
    price: float | None = None


NOT_EXACT = 2.0**53
"""Floats from here on cannot represent every integer; JSON integers beyond 64 bits and float columns become floats."""


def is_rounded(item_id: object) -> bool:
    """Whether an id was read as a float too large to be exact, so that different ids may have become equal."""
    return isinstance(item_id, float) and abs(item_id) >= NOT_EXACT


def distinct_categories(names: Iterable[str]) -> tuple[str, ...]:
    """Normalize categories, as in training: whitespace is folded, empty and repeated names are left out."""
    return tuple(dict.fromkeys(filter(None, (" ".join(name.split()) for name in names))))


def compose_text(content: ItemContent) -> str:
    """Join title, brand, categories and the first 600 characters of the description into one line.

    Whitespace is folded. Returns the empty string if no field has text. The price is left out, because the encoders we
    use do not read numbers as quantities.
    """
    parts = [
        content.title or "",
        content.brand or "",
        ", ".join(content.categories),
        (content.description or "")[:DESCRIPTION_CHARACTERS],
    ]
    return ". ".join(part for part in (" ".join(part.split()) for part in parts) if part)


def content_hash(text: str) -> str:
    """SHA-256 of a composed text, in hexadecimal: the key of embedding caches, equal for equal content."""
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()


def compose_texts(contents: Sequence[ItemContent]) -> list[str]:
    """Apply `compose_text` to many contents."""
    return [compose_text(content) for content in contents]
