"""Catalogues of random items, in the layout of the paper, and those of bundles. Knows nothing of what is measured."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import polars as pl

from service.index.trie import CodeTrie
from service.semantic_ids import IntArray, TokenLayout

LAYOUT = TokenLayout(levels=4, codes=256, experts=10, experts_per_item=1, suffixes=64)
TITLE = b"A title of sixty letters, as long as they are in catalogues "


def random_items(count: int, random: np.random.Generator) -> IntArray:
    """Distinct random semantic IDs without suffixes: int32 [count, 6] tokens."""
    widths = (*LAYOUT.position_sizes[:-1], 1)
    drawn = np.sort(random.integers(0, math.prod(widths), count + count // 50))
    # `np.unique` finds the same with a table of hashes, which takes twenty times as long for ten million.
    numbers = drawn[np.append(True, drawn[1:] != drawn[:-1])]
    chosen = random.permutation(len(numbers))[:count]
    values = np.stack(np.unravel_index(numbers[chosen], widths), axis=1)
    return LAYOUT.tokens(values.astype(np.int32))


def one_root(tokens: IntArray, shared_levels: int = 0) -> CodeTrie:
    """Index over items int32 [n, depth] of one domain; item i is leaf i, and items share so many levels at the end."""
    leaves = np.arange(len(tokens), dtype=np.int32)
    return CodeTrie.from_tokens(tokens, np.zeros_like(leaves), leaves, 1, shared_levels)


def items_of(bundle: Path) -> pl.DataFrame:
    """The catalogue that a bundle was made with: domain, item_id, title, codes, experts, suffix."""
    return pl.read_parquet(bundle / "catalogue" / "items.parquet")


def work_folder() -> Path:
    """Where benchmarks keep what they make: on the disk, while the folder for temporary files may lie in memory."""
    folder = Path(__file__).parents[1] / "work" / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
