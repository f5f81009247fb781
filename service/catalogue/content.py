"""JSON form in which a store keeps an item's content, except the title. Independent of stores."""

from __future__ import annotations

import orjson

from service.items import DESCRIPTION_CHARACTERS, ItemContent


def stored_content(content: ItemContent) -> str | None:
    """All fields but the title as JSON, truncated to what the tokenizer reads; None if all are empty."""
    fields = {
        "brand": content.brand,
        "categories": list(content.categories),
        "description": (content.description or "")[:DESCRIPTION_CHARACTERS],
        "price": content.price,
    }
    kept = {name: value for name, value in fields.items() if value not in (None, [], "")}
    return orjson.dumps(kept).decode() if kept else None


def read_content(title: str | None, stored: str | None) -> ItemContent:
    """Inverse of `stored_content`, with the title, which is stored beside it."""
    fields = orjson.loads(stored) if stored else {}
    return ItemContent(
        title=title,
        brand=fields.get("brand"),
        categories=tuple(fields.get("categories", ())),
        description=fields.get("description"),
        price=fields.get("price"),
    )


def is_content(stored: str) -> bool:
    """Whether a text from an external source has the format that `stored_content` writes."""
    try:
        fields = orjson.loads(stored)
    except orjson.JSONDecodeError:
        return False
    return (
        isinstance(fields, dict)
        and all(
            isinstance(fields.get(name, kind()), kind)
            for name, kind in (("brand", str), ("categories", list), ("description", str))
        )
        and all(isinstance(category, str) for category in fields.get("categories", ()))
    )
