"""Words that items share, from their titles, brands and categories.

A whole brand or category is one word. Words of different domains are kept apart, since the same word tells different
things about preferences in each. Knows nothing of networks.

Symbols: M items of all domains, W words.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.items import ItemContent
from training.ids.table import plain_text
from training.networks.word_vectors import WordsOfRows

WORD = re.compile(r"[^\W_]+")
TITLE_WORDS = 32
"""Only this many first words of a title are used."""


@dataclass(frozen=True)
class ItemWords:
    """The words of items.

    Attributes
    ----------
    starts : int64 [M + 1], where each item's words begin in `words`
    words : int64, numbers of the words, ascending within an item
    count : W
    """

    starts: NDArray[np.int64]
    words: NDArray[np.int64]
    count: int

    @property
    def digest(self) -> str:
        """SHA-256 of the words of all items."""
        return hashlib.sha256(self.starts.tobytes() + self.words.tobytes()).hexdigest()

    def of_rows(self, rows: Tensor, size: int) -> WordsOfRows:
        """The words by table row, for a table with `size` rows; `rows`, int64 [M], are the rows of the items.

        Each of the w words of a row has the weight 1 / sqrt(w), so that the length of their sum does not grow with w.
        Items whose IDs have the same hash share a row, and thus their words.
        """
        owner = np.repeat(rows.numpy(), np.diff(self.starts))
        counts = np.bincount(owner, minlength=size)
        return WordsOfRows(
            words=torch.from_numpy(self.words[np.argsort(owner, kind="stable")]),
            starts=torch.from_numpy(np.cumsum(counts) - counts),
            shares=torch.from_numpy(np.repeat(1 / np.sqrt(np.maximum(counts, 1)), counts).astype(np.float32)),
            count=self.count,
        )


def item_words(domains: Iterable[Sequence[ItemContent]], least: int) -> ItemWords:
    """Number the words that at least `least` items of a domain have.

    Parameters
    ----------
    domains : the contents of each domain's items, in the order of the corpus
    least : 1 or more
    """
    numbers: list[list[int]] = []
    count = 0
    for contents in domains:
        said = [words_of(content) for content in contents]
        met = Counter(word for words in said for word in words)
        shared = sorted(word for word, items in met.items() if items >= least)
        known = {word: count + place for place, word in enumerate(shared)}
        numbers += [sorted(known[word] for word in words if word in known) for words in said]
        count += len(known)
    starts = np.cumsum([0, *(len(each) for each in numbers)], dtype=np.int64)
    return ItemWords(starts, np.asarray([number for each in numbers for number in each], dtype=np.int64), count)


def words_of(content: ItemContent) -> set[str]:
    """The words of one item, each prefixed with its field ("title", "category" or "brand")."""
    named = [("title", word) for word in WORD.findall(plain_text(content.title or ""))[:TITLE_WORDS]]
    named += [("category", plain_text(category)) for category in content.categories]
    named.append(("brand", plain_text(content.brand or "")))
    return {f"{place} {word}" for place, word in named if word}
