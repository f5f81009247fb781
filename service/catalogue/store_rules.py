"""Rules shared by all stores: names, texts, domains, IDs of new items, gaps in a log, layouts.

Independent of the kind of store.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.catalogue.records import NewItem, StoredItem
from service.errors import InvalidInput, LimitExceeded
from service.semantic_ids import TokenLayout

MAX_NAME_BYTES = 512
"""Longest domain name and item_id, in UTF-8."""

MAX_DOMAINS = (1 << 16) - 1
"""Maximum domains per store: Redis stores their numbers in two bytes, and all stores have the same limits."""


def base_ids(items: Sequence[NewItem], layout: TokenLayout) -> NDArray[np.uint64]:
    """Packed IDs with suffix 0, uint64 [B]: the suffix fills the lowest bits, so `base + suffix` is an item's ID.

    Raises
    ------
    InvalidInput : a key, a code or an expert is invalid
    """
    for row, item in enumerate(items):
        check_key(item.domain, item.item_id, row)
        _utf8_size(item.title or "", "title", row)
        _utf8_size(item.content or "", "content", row)
        if len(item.codes) != layout.levels or len(item.experts) != layout.experts_per_item:
            raise InvalidInput(
                f"item {row} ({item.item_id!r}) has {len(item.codes)} codes and {len(item.experts)} experts, "
                f"but the bundle has {layout.levels} and {layout.experts_per_item}"
            )
    rows = [(*item.codes, *item.experts, 0) for item in items]
    return layout.pack(np.asarray(rows, dtype=np.int32).reshape(-1, layout.depth))


def check_items(items: Sequence[StoredItem]) -> None:
    """Refuse names and texts that a store cannot hold, as `base_ids` does for new items."""
    for row, item in enumerate(items):
        check_key(item.domain, item.item_id, row)
        _utf8_size(item.title or "", "title", row)
        _utf8_size(item.content or "", "content", row)


def too_many_domains(domain: str) -> LimitExceeded:
    """The error for a domain beyond the limit."""
    return LimitExceeded(f"domain {domain!r} is one too many: a store holds {MAX_DOMAINS}")


def is_whole(after: int, head: int, sequences: Sequence[int], limit: int) -> bool:
    """Whether ascending sequence numbers from a log have no gap after `after`, up to `head` or `limit` of them."""
    expected = min(head - after, limit)
    return expected == len(sequences) and (not expected or sequences[-1] == after + expected)


def dropped_text(where: str, generation: str) -> str:
    """The error message for a dropped generation."""
    return (
        f"{where}: {generation} was dropped, and its IDs may still be known elsewhere; give the bundle a new generation"
    )


def layout_of_ids(layout: TokenLayout) -> dict[str, int]:
    """The part of a layout that a packed ID depends on; a store keeps it and refuses to open with another."""
    names = ("levels", "codes", "experts", "experts_per_item", "suffixes")
    return {name: getattr(layout, name) for name in names}


def check_key(domain: str, item_id: str, row: int) -> None:
    """Refuse names that a store cannot hold.

    Raises
    ------
    InvalidInput : empty, longer than `MAX_NAME_BYTES`, or not encodable as UTF-8
    """
    for field, text in (("domain", domain), ("item_id", item_id)):
        size = _utf8_size(text, field, row)
        if not 1 <= size <= MAX_NAME_BYTES:
            raise InvalidInput(f"item {row}: {field} has {size} bytes, but 1 to {MAX_NAME_BYTES} are allowed")


def _utf8_size(text: str, field: str, row: int) -> int:
    try:
        return len(text.encode("utf-8"))
    except UnicodeEncodeError:
        raise InvalidInput(f"item {row}: {field} {text!r} holds half a surrogate pair, which is no text") from None
