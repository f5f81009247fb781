"""Quality of the semantic IDs of a domain, in figures that can be compared between tokenizers.

Symbols: n items, L levels, N experts an item, D embedding width. Suffixes are ignored throughout, since they make
any ID unique. Knows nothing of networks or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from service.semantic_ids import IntArray
from training.ids.counts import groups_of, perplexities, sharing
from training.ids.table import contents_of

FloatArray = NDArray[np.float32]

NEIGHBOURS = 10
ROUNDING = 1e-12
"""As a share of the sum of squares: differences between equal values that float32 products in an encoder cause."""


@dataclass(frozen=True)
class IdQuality:
    """Figures of one domain.

    Attributes
    ----------
    items : n
    sharing : share of items whose codes and experts another item has too
    distinct_contents : number of different contents, as `contents_of` defines them
    sharing_beyond_equal_content : the same as `sharing`, over one item of each content
    largest_group : largest number of items with the same ID
    entropy_hartleys : entropy of full IDs, to base 10; log10 n if all differ
    perplexity, codes_used : by level, over all items of all experts together, as the recommender reads codes
    main_expert : the most frequent first expert
    main_expert_share : share of the items with this first expert
    main_expert_perplexity, main_expert_codes_used : by level, over the items of that expert
    """

    items: int
    sharing: float
    distinct_contents: int
    sharing_beyond_equal_content: float
    largest_group: int
    entropy_hartleys: float
    perplexity: list[float]
    codes_used: list[int]
    main_expert: int
    main_expert_share: float
    main_expert_perplexity: list[float]
    main_expert_codes_used: list[int]


def id_quality(codes: IntArray, experts: IntArray, texts: Sequence[str]) -> IdQuality:
    """Compute the figures of one domain's IDs.

    Parameters
    ----------
    codes, experts : int32 [n, L] and [n, N]
    texts : n composed texts; see `contents_of`
    """
    groups = groups_of(np.concatenate([codes, experts], axis=1))
    sizes = np.bincount(groups)
    _, firsts = np.unique(contents_of(texts), return_index=True)
    shares = sizes / len(groups)
    first = first_experts(experts)
    main = int(np.bincount(first).argmax())
    served = codes[first == main]
    return IdQuality(
        items=len(groups),
        sharing=sharing(groups),
        distinct_contents=len(firsts),
        sharing_beyond_equal_content=sharing(groups[firsts]),
        largest_group=int(sizes.max()),
        entropy_hartleys=float(-(shares * np.log10(shares)).sum()),
        perplexity=perplexities(codes),
        codes_used=_used(codes),
        main_expert=main,
        main_expert_share=len(served) / len(codes),
        main_expert_perplexity=perplexities(served),
        main_expert_codes_used=_used(served),
    )


def first_experts(experts: IntArray) -> IntArray:
    """int32 [n]: the expert that gave an item its codes, from experts int32 [n, N]; 0 if IDs hold no experts."""
    return experts[:, 0] if experts.shape[1] else np.zeros(len(experts), dtype=np.int32)


def _used(codes: IntArray) -> list[int]:
    return [len(np.unique(column)) for column in codes.T]


def relative_error(values: FloatArray, approximations: FloatArray) -> float:
    """Squared error of approximations [n, D], divided by the spread of the values about their mean."""
    return share_of_spread(float(np.square(values - approximations, dtype=np.float64).sum()), values)


def share_of_spread(error: float, values: FloatArray) -> float:
    """A squared error, summed over all values [n, D], divided by their spread about their mean.

    If the values differ by no more than float32 rounding: 1 if there is an error, 0 if there is none.
    """
    spread = float(np.square(values - values.mean(axis=0, dtype=np.float64)).sum())
    rounding = ROUNDING * float(np.square(values, dtype=np.float64).sum())
    return error / spread if spread > rounding else float(error > rounding)


@dataclass(frozen=True)
class Neighbourhood:
    """Whether near items share their first code.

    Attributes
    ----------
    kept : share of an item's nearest neighbours, by embedding, that share its first code
    chance : the same for items drawn at random
    asked : number of items whose neighbours were looked up
    """

    kept: float
    chance: float
    asked: int


def neighbourhood(embeddings: FloatArray, codes: IntArray, most: int = 2000) -> Neighbourhood:
    """Compare the first of codes [n, L] of items and their 10 nearest neighbours (or all others) by embedding [n, D].

    A single item has no neighbours: `asked` is 0.

    Parameters
    ----------
    most : size of the random sample of items whose neighbours are looked up among all items
    """
    count = len(embeddings)
    first = codes[:, 0]
    shares = np.bincount(first) / count
    chance = float(np.square(shares).sum())
    asked = np.random.default_rng(0).permutation(count)[:most]
    k = min(NEIGHBOURS, count - 1)
    if k < 1:
        return Neighbourhood(0.0, chance, 0)
    index = faiss.IndexFlatL2(embeddings.shape[1])
    index.add(np.ascontiguousarray(embeddings, dtype=np.float32))
    _, found = index.search(np.ascontiguousarray(embeddings[asked], dtype=np.float32), k + 1)
    # The item itself is usually in its own result, but with equal embeddings not always first, or not at all.
    themselves = found == asked[:, None]
    themselves[~themselves.any(axis=1), -1] = True
    others = found[~themselves].reshape(len(asked), k)
    return Neighbourhood(float((first[others] == first[asked][:, None]).mean()), chance, len(asked))
