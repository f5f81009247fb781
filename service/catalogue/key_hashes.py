"""Hashes of items' keys, keyed themselves: nobody can choose item ids that all fall into one place of a hash table.

Knows nothing of tables.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.catalogue.columns import ItemColumns

NUMBER = struct.Struct("<I")


class KeyHashes:
    """Hashes of 32 bits.

    Parameters
    ----------
    salt : 16 bytes that nobody else knows, of hashes to go on with; None for new ones
    """

    def __init__(self, salt: bytes | None = None) -> None:
        self.salt = secrets.token_bytes(16) if salt is None else salt

    def of(self, number: int, name: bytes) -> int:
        """Of one key: the number of its domain, and its item_id."""
        # A prefix keys BLAKE2 as well as its own key would, and takes one block in place of two.
        digest = hashlib.blake2b(self.salt + NUMBER.pack(number) + name, digest_size=4).digest()
        return NUMBER.unpack(digest)[0]  # type: ignore[no-any-return]

    def of_all(self, numbers: Sequence[int], items: ItemColumns) -> NDArray[np.uint32]:
        """`of` many, uint32 [n]; `numbers` are those of the columns' domains."""
        prefixes = [self.salt + NUMBER.pack(number) for number in numbers]
        digests = [
            hashlib.blake2b(prefixes[place] + name, digest_size=4).digest()
            for place, name in zip(items.domain.tolist(), items.names, strict=True)
        ]
        return np.frombuffer(b"".join(digests), dtype="<u4").astype(np.uint32)
