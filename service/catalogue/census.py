"""Counts of codes and experts per domain, updated with every change: how a catalogue uses its token space.

Symbols: n items, L levels, T codes per level, N experts per item, K experts. Only one thread at a time may change it;
concurrent reads are safe, but may see a partial change. Independent of stores and tries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.semantic_ids import IntArray, TokenLayout


@dataclass(frozen=True, slots=True, eq=False)
class DomainCensus:
    """The token space of one domain.

    Attributes
    ----------
    items : live items
    collided : items whose codes and experts were already taken by another item; their suffix is not 0
    perplexity : float64 [L], effective number of codes in use at a level: from 1 (all items share one code) to T
    expert_share : float64 [K], share of each expert among all expert assignments
    """

    items: int
    collided: int
    perplexity: NDArray[np.float64]
    expert_share: NDArray[np.float64]


class _Counts:
    """The counts of one domain: codes int64 [L, T], experts int64 [K]."""

    def __init__(self, layout: TokenLayout) -> None:
        self.items = 0
        self.collided = 0
        self.codes = np.zeros((layout.levels, layout.codes), dtype=np.int64)
        self.experts = np.zeros(layout.experts, dtype=np.int64)


class Census:
    """Counts for every domain that has ever held an item."""

    def __init__(self, layout: TokenLayout) -> None:
        self._layout = layout
        self._levels = np.arange(layout.levels)
        self._domains: dict[str, _Counts] = {}

    def add(self, domain: str, values: IntArray) -> None:
        """Add items to the counts; values int32 [n, L + N + 1]."""
        self._change(domain, values, 1)

    def remove(self, domain: str, values: IntArray) -> None:
        """Subtract items from the counts; values int32 [n, L + N + 1]."""
        self._change(domain, values, -1)

    def of(self, domain: str) -> DomainCensus:
        """The census of a domain; all counts are 0 for a domain that has never held an item."""
        counts = self._domains.get(domain) or _Counts(self._layout)
        return DomainCensus(
            items=counts.items,
            collided=counts.collided,
            perplexity=np.exp(entropy(counts.codes)),
            expert_share=counts.experts / max(1, int(counts.experts.sum())),
        )

    @classmethod
    def from_arrays(cls, layout: TokenLayout, domains: Sequence[str], saved: Mapping[str, NDArray[Any]]) -> Census:
        """Restore a census from the result of `arrays` for the same domains."""
        census = cls(layout)
        rows = zip(domains, saved["codes"], saved["experts"], saved["items"].tolist(), strict=True)
        for domain, codes, experts, (items, collided) in rows:
            counts = _Counts(layout)
            counts.codes += codes
            counts.experts += experts
            counts.items, counts.collided = items, collided
            census._domains[domain] = counts
        return census

    def arrays(self, domains: Sequence[str]) -> dict[str, NDArray[np.int64]]:
        """Counts of R domains, to be saved: codes [R, L, T], experts [R, K], items and collided items [R, 2]."""
        layout = self._layout
        counts = [self._domains.get(domain) or _Counts(layout) for domain in domains]
        return {
            "codes": np.array([each.codes for each in counts]).reshape(-1, layout.levels, layout.codes),
            "experts": np.array([each.experts for each in counts], dtype=np.int64).reshape(-1, layout.experts),
            "items": np.array([(each.items, each.collided) for each in counts], dtype=np.int64).reshape(-1, 2),
        }

    def __contains__(self, domain: str) -> bool:
        return domain in self._domains

    def domains(self) -> dict[str, int]:
        """Number of items of each non-empty domain."""
        return {domain: counts.items for domain, counts in list(self._domains.items()) if counts.items}

    def _change(self, domain: str, values: IntArray, sign: int) -> None:
        counts = self._domains.setdefault(domain, _Counts(self._layout))
        levels = self._layout.levels
        np.add.at(counts.codes, (self._levels, values[:, :levels]), sign)
        np.add.at(counts.experts, values[:, levels:-1], sign)
        counts.items += sign * len(values)
        counts.collided += sign * int(np.count_nonzero(values[:, -1]))


def entropy(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Entropy in nats over the last axis of counts int64 [..., T]; 0 where nothing was counted."""
    total = counts.sum(axis=-1, keepdims=True)
    share = counts / np.maximum(total, 1)
    # 0 log 0 is defined as 0; log 1 = 0 yields that.
    return np.asarray(-(share * np.log(np.where(share > 0, share, 1.0))).sum(axis=-1))
