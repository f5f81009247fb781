"""Salted hashes of item keys: an attacker cannot choose item_ids that all collide in a hash table.

Independent of tables.
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
    """Computes 32-bit hashes.

    Parameters
    ----------
    salt : 16 secret bytes of existing hashes; None for a new salt
    """

    def __init__(self, salt: bytes | None = None) -> None:
        self.salt = secrets.token_bytes(16) if salt is None else salt

    def of(self, number: int, name: bytes) -> int:
        """Hash of one key, given by its domain's number and its item_id."""
        # For BLAKE2 a secret prefix is as good as its key parameter, and takes one block instead of two.
        digest = hashlib.blake2b(self.salt + NUMBER.pack(number) + name, digest_size=4).digest()
        return NUMBER.unpack(digest)[0]  # type: ignore[no-any-return]

    def of_all(self, numbers: Sequence[int], items: ItemColumns) -> NDArray[np.uint32]:
        """`of` for many keys, uint32 [n]; `numbers` belong to the columns' domains."""
        prefixes = [self.salt + NUMBER.pack(number) for number in numbers]
        digests = [
            hashlib.blake2b(prefixes[place] + name, digest_size=4).digest()
            for place, name in zip(items.domain.tolist(), items.names, strict=True)
        ]
        return np.frombuffer(b"".join(digests), dtype="<u4").astype(np.uint32)
