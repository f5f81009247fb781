"""Hard limits on the contents of a request, and the check of a request against the configured limits.

The hard limits are part of the HTTP schema, so that its documentation states a bound on every field; settings can only
lower them. Knows nothing of HTTP, engines or stores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import LimitExceeded, below
from service.items import ItemContent

FIELDS = 50
"""Fields of one object, unknown ones included."""
ITEMS = 10_000
"""Items of one tokenize request."""
TEXT_CHARACTERS = 100_000
"""Characters of one text field; the encoders read far fewer."""
CATEGORIES = 100
"""Categories of one item."""
EMBEDDING_WIDTH = 65_536
"""Numbers of one embedding."""
MOST_MAGNITUDE = 1e6
"""Magnitude of a number in an embedding; far larger ones overflow in the tokenizer."""
LEAST_PRICE = 0.0
HISTORY = 10_000
"""Entries of a history; recommenders read the most recent ones."""
REFERENCES = 100_000
"""Items of an exclude or an allow list."""
DOMAINS = 1_000
"""Domains of one request."""
BEAMS = 1_000
"""Beam width, and therefore also k."""
GENERATION = 2**31 - 1
"""Number of an ID generation."""
NEIGHBOURS = 100
"""Similar items that an explanation may list."""

DOMAIN_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
"""Valid names of domains: they are used in paths, metrics and store keys."""
DOMAIN_RULE = "must be 1 to 64 letters, digits, _ . or -, beginning with a letter or digit"
ITEM_ID_PATTERN = r"^[^\x00-\x1f\x7f\ufffd]{1,256}$"
"""Valid item ids: no control characters, and not U+FFFD, the replacement character of broken encodings."""
ITEM_ID_RULE = "must be 1 to 256 characters, none of them a control character or U+FFFD"

NO_DIRECTION = "is zero in every number and so has no direction; leave it out, and send the item's text"


def has_direction(embedding: NDArray[np.float32]) -> bool:
    """Whether an embedding, as float32, is not all zeros; `NO_DIRECTION` is the message for one that is."""
    return bool(embedding.any())


@dataclass(frozen=True, slots=True)
class Limits:
    """The configured limits; `service/settings.py` describes each."""

    items_per_request: int
    text_characters: int
    history: int
    k: int
    beam_width: int
    references: int

    def check_count(self, field: str, count: int, limit: int) -> None:
        """Refuse a list that is too long.

        Raises
        ------
        LimitExceeded : `count` is above `limit`
        """
        if count > limit:
            raise LimitExceeded(f"has {count} entries, but at most {limit} are allowed", field)

    def check_number(self, field: str, value: int, limit: int) -> None:
        """Refuse a number that is too large.

        Raises
        ------
        LimitExceeded : `value` is above `limit`
        """
        if value > limit:
            raise LimitExceeded(f"is {value}, but must be at most {limit}", field)

    def check_content(self, field: str, content: ItemContent) -> None:
        """Refuse an item with a text field that is too long.

        Raises
        ------
        LimitExceeded : the message names the field
        """
        texts: Sequence[tuple[str, str | None]] = [
            ("title", content.title),
            ("brand", content.brand),
            ("description", content.description),
            *(("categories", category) for category in content.categories),
        ]
        for name, text in texts:
            if text is not None and len(text) > self.text_characters:
                what = "an entry has" if name == "categories" else "has"
                raise LimitExceeded(
                    f"{what} {len(text)} characters, but at most {self.text_characters} are allowed", below(field, name)
                )
