"""How the first two levels of semantic IDs split a domain: the largest branches, each with its typical words.

Knows nothing of drawing.

Symbols: n items, L levels.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from service.items import ItemContent
from service.semantic_ids import IntArray

WORD = re.compile(r"[a-z][a-z'-]{2,}")
STOP_WORDS = frozenset(
    WORD.findall(
        "about all and are but can for from has have her his into its more new not one our out set that the their "
        "this use with you your pack count inch"
    )
)


@dataclass(frozen=True)
class Branch:
    """All items whose IDs begin with the same codes.

    Attributes
    ----------
    code : at its level; None for the parent's smaller branches taken together
    items : number of items
    words : typical words, the most typical first
    children : its largest branches, then the smaller ones taken together
    """

    code: int | None
    items: int
    words: tuple[str, ...]
    children: tuple[Branch, ...] = ()


def id_tree(codes: IntArray, contents: Sequence[ItemContent], *, first: int = 16, second: int = 4) -> Branch:
    """The root of a domain's tree: its `first` largest branches, and the `second` largest of each.

    codes : int32 [n, L]; contents : n
    """
    return _Grower(codes, [words_of(content) for content in contents], (first, second)).grow(
        None, np.arange(len(codes))
    )


def words_of(content: ItemContent) -> frozenset[str]:
    """Words of an item's title and categories, without stop words."""
    text = " ".join([content.title or "", *content.categories]).lower()
    return frozenset(WORD.findall(text)) - STOP_WORDS


def telling_words(members: Sequence[frozenset[str]], documents: Counter[str], total: int) -> tuple[str, ...]:
    """Up to three words, frequent among the members and rarer elsewhere: by share x log(share / share of all items)."""
    counts = Counter(word for each in members for word in each)
    size = len(members)

    def weight(word: str) -> float:
        share = counts[word] / size
        return float(share * np.log(share * total / documents[word]))

    ranked = sorted(counts, key=lambda word: (-round(weight(word), 9), word))
    return tuple(word for word in ranked[:3] if weight(word) > 0)


class _Grower:
    """Builds the branches of one domain.

    Parameters
    ----------
    codes : int32 [n, L]
    words : of n items
    shown : number of branches shown separately, by level
    """

    def __init__(self, codes: IntArray, words: Sequence[frozenset[str]], shown: Sequence[int]) -> None:
        self._codes, self._words = codes, words
        self._shown = shown[: codes.shape[1]]
        self._documents = Counter(word for each in words for word in each)

    def grow(self, code: int | None, rows: NDArray[np.int64], level: int = 0) -> Branch:
        """The branch of the given rows, whose codes are equal at all levels before `level`."""
        if level == len(self._shown):
            return self._leaf(code, rows)
        own = self._codes[rows, level]
        sizes = np.bincount(own)
        largest = np.argsort(-sizes, kind="stable")[: self._shown[level]]
        shown = [int(each) for each in largest if sizes[each]]
        children = [self.grow(each, rows[own == each], level + 1) for each in shown]
        rest = rows[~np.isin(own, shown)]
        children += [self._leaf(None, rest)] if len(rest) else []
        return replace(self._leaf(code, rows), children=tuple(children))

    def _leaf(self, code: int | None, rows: NDArray[np.int64]) -> Branch:
        words = telling_words([self._words[row] for row in rows], self._documents, len(self._words))
        return Branch(code, len(rows), words)
