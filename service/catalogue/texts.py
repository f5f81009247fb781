"""Append-only byte array with names and titles. Independent of items.

A text is written once, at the end, and its offset (*place*) never changes, so reads are safe while another thread
adds.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.index.storage import ranges

HEADER = struct.Struct("<Hi")
"""Size of the name, and size of the title or -1 if there is none, in bytes; both texts follow, in UTF-8."""

HEADERS = np.dtype([("name", "<u2"), ("title", "<i4")])
"""`HEADER` as a NumPy dtype."""

SMALLEST = 1 << 16

Bytes = NDArray[np.uint8]
Places = NDArray[np.int64]


class Texts:
    """Pairs of a name and a title.

    Parameters
    ----------
    kept : uint8 [n], initial texts; used without a copy, and may be memory-mapped
    """

    def __init__(self, kept: Bytes | None = None) -> None:
        self._kept = np.zeros(0, dtype=np.uint8) if kept is None else kept
        self._added = np.zeros(0, dtype=np.uint8)
        self.used = len(self._kept)

    def joined(self) -> Bytes:
        """All texts as one array, to be the initial texts of another `Texts`."""
        added = self._added[: self.used - len(self._kept)]
        return np.concatenate([self._kept, added]) if len(self._kept) else added

    def add(self, names: Sequence[bytes], titles: Sequence[bytes | None]) -> Places:
        """Write texts in UTF-8; returns their places, int64 [n]."""
        heads = np.empty(len(names), dtype=HEADERS)
        heads["name"] = list(map(len, names))
        heads["title"] = [-1 if title is None else len(title) for title in titles]
        headers = heads.tobytes()
        pieces = [b""] * (3 * len(names))
        pieces[::3] = [headers[at : at + HEADER.size] for at in range(0, len(headers), HEADER.size)]
        pieces[1::3] = names
        pieces[2::3] = [title or b"" for title in titles]
        sizes = HEADER.size + heads["name"].astype(np.int64) + np.maximum(heads["title"], 0)
        return self._append(np.frombuffer(b"".join(pieces), dtype=np.uint8), sizes)

    def adopt(self, other: Texts, places: Places) -> Places:
        """Copy texts from another `Texts`; returns their places here, int64 [n]."""
        new = np.empty(len(places), dtype=np.int64)
        for part, offset in other._parts():
            inside = (places >= offset) & (places < offset + len(part))
            at = places[inside] - offset
            head = [part[at + byte].astype(np.int64) for byte in range(HEADER.size)]
            titles = (head[2] | head[3] << 8 | head[4] << 16 | head[5] << 24).astype(np.uint32).view(np.int32)
            sizes = HEADER.size + (head[0] | head[1] << 8) + np.maximum(titles, 0)
            new[inside] = self._append(part[ranges(at, sizes)], sizes)
        return new

    def name(self, place: int) -> bytes:
        """The name at a place."""
        data, at = self._find(place)
        length, _ = HEADER.unpack_from(data, at)
        first = at + HEADER.size
        return bytes(data[first : first + length])

    def read(self, place: int) -> tuple[str, str | None]:
        """Name and title at a place."""
        data, at = self._find(place)
        length, title = HEADER.unpack_from(data, at)
        first = at + HEADER.size
        middle = first + length
        return str(data[first:middle], "utf-8"), None if title < 0 else str(data[middle : middle + title], "utf-8")

    def size(self, place: int) -> int:
        """Size in bytes of the entry at a place."""
        data, at = self._find(place)
        length, title = HEADER.unpack_from(data, at)
        return HEADER.size + int(length) + max(int(title), 0)

    def _find(self, place: int) -> tuple[memoryview, int]:
        """The buffer that contains a place, and the offset in it."""
        before = len(self._kept)
        return (self._kept.data, place) if place < before else (self._added.data, place - before)

    def _parts(self) -> list[tuple[Bytes, int]]:
        """Both buffers, each with the place of its first byte."""
        return [(self._kept, 0), (self._added, len(self._kept))]

    def _append(self, data: Bytes, sizes: Places) -> Places:
        first = self.used - len(self._kept)
        end = first + len(data)
        if end > len(self._added):
            # A copy: concurrent readers continue on the old array. Pages that were never written take no memory.
            larger = np.zeros(max(SMALLEST, end, len(self._added) + len(self._added) // 2), dtype=np.uint8)
            larger[:first] = self._added[:first]
            self._added = larger
        self._added[first:end] = data
        places: Places = self.used + np.cumsum(sizes) - sizes
        self.used += len(data)
        return places
