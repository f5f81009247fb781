"""Fingerprints of a catalogue: equal if, and barring hash collisions only if, both sides hold the same items and IDs.

An item's part is the first 8 bytes of SHA-1 over its packed ID and its item_id. A domain's fingerprint is the XOR of
the parts of its live items, so it is independent of their order, and an update takes constant time.
`lua/common.lua` computes the same numbers inside a Redis server. Detects mistakes, not attacks.

Independent of stores and tables.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from service.catalogue.columns import ItemColumns, rows_of_each

PART = struct.Struct(">Q")


def item_part(item_id: str, packed: int) -> int:
    """An item's part, below 2**64."""
    digest = hashlib.sha1(PART.pack(packed) + item_id.encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[:8], "big")


def item_parts(items: ItemColumns) -> NDArray[np.uint64]:
    """`item_part` of many items, uint64 [n]."""
    ids = items.packed.astype(">u8").tobytes()
    digests = [
        hashlib.sha1(ids[at : at + PART.size] + name, usedforsecurity=False).digest()[: PART.size]
        for at, name in zip(range(0, len(ids), PART.size), items.names, strict=True)
    ]
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64)


class Fingerprints:
    """Fingerprint of each domain, updated incrementally; a domain without items has none.

    Parameters
    ----------
    values : initial fingerprints by domain
    """

    def __init__(self, values: Mapping[str, int] | None = None) -> None:
        self._parts: dict[str, int] = dict(values or {})

    def toggle(self, domain: str, item_id: str, packed: int) -> None:
        """Add an item, or remove it."""
        self._parts[domain] = self._parts.get(domain, 0) ^ item_part(item_id, packed)

    def toggle_all(self, items: ItemColumns) -> None:
        """`toggle` for many items."""
        parts = item_parts(items)
        for domain, rows in zip(items.domains, rows_of_each(items.domain, len(items.domains)), strict=True):
            change = int(np.bitwise_xor.reduce(parts[rows], initial=np.uint64(0)))
            self._parts[domain] = self._parts.get(domain, 0) ^ change

    def values(self) -> dict[str, int]:
        """Domain -> fingerprint, without empty domains."""
        return {domain: value for domain, value in self._parts.items() if value}
