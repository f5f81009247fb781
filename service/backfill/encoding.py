"""Computes codes and experts of rows from embedding or text, with an LRU cache for repeated texts.

Catalogues contain duplicates (sizes, colours, reprints): the 18,203 rows of one real catalogue of sports goods have
5,987 distinct texts. Independent of files and stores.

Symbols: L levels, N experts chosen.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.backfill.rows import Row
from service.engine.engine import EncodesTexts, TokenizesItems
from service.items import content_hash

REMEMBERED_TEXTS = 100_000
"""Capacity of the LRU cache in texts, about 50 MB at most."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """L codes and N experts of an item."""

    codes: tuple[int, ...]
    experts: tuple[int, ...]


class RowEncoder:
    """Encodes batches of rows.

    Parameters
    ----------
    domain : domain of all rows
    text_encoder, item_tokenizer : from a bundle
    """

    def __init__(self, domain: str, text_encoder: EncodesTexts, item_tokenizer: TokenizesItems) -> None:
        self._domain = domain
        self._text_encoder = text_encoder
        self._item_tokenizer = item_tokenizer
        self._known: OrderedDict[str, Encoded] = OrderedDict()

    def encode(self, rows: Sequence[Row]) -> list[Encoded]:
        """One result per row, in the same order."""
        vectors = [row.embedding for row in rows if row.embedding is not None]
        hashes = [None if row.embedding is not None else content_hash(row.text) for row in rows]
        fresh: dict[str, str] = {}
        for row, hashed in zip(rows, hashes, strict=True):
            if hashed is None:
                continue
            if hashed in self._known:
                self._known.move_to_end(hashed)
            else:
                fresh.setdefault(hashed, row.text)
        if fresh:
            vectors += list(self._text_encoder.encode(list(fresh.values())))
        encoded = self._tokenized(vectors)
        by_vector, by_text = encoded[: len(encoded) - len(fresh)], encoded[len(encoded) - len(fresh) :]
        self._known.update(zip(fresh, by_text, strict=True))
        given = iter(by_vector)
        result = [next(given) if hashed is None else self._known[hashed] for hashed in hashes]
        while len(self._known) > REMEMBERED_TEXTS:
            self._known.popitem(last=False)
        return result

    def _tokenized(self, vectors: Sequence[NDArray[np.float32]]) -> list[Encoded]:
        if not vectors:
            return []
        found = self._item_tokenizer.tokenize(
            np.stack(vectors).astype(np.float32, copy=False), [self._domain] * len(vectors)
        )
        pairs = zip(found.codes.tolist(), found.experts.tolist(), strict=True)
        return [Encoded(tuple(codes), tuple(experts)) for codes, experts in pairs]
