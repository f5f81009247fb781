"""Comparison of a recommender graph's ranked lists with transformers' constrained `generate`, on real histories.

Any difference other than a tie is an error. Knows nothing of bundles.

Symbols: B histories, S sequence, W beams, depth = L + N + 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.history_tokens import history_tokens
from service.engine.recommender import BeamResult, Recommender
from service.errors import ModelError
from service.index.state import TrieArrays
from service.index.trie import CodeTrie
from service.progress import Advance
from service.ranked_lists import TIE, compare_lists
from service.semantic_ids import IntArray
from training.data.dataset import DomainData
from training.export.reference import AllowedTokens, GeneratedLists, generate_lists, narrowest_choice
from training.measures.users import even_shares, split_for
from training.networks.t5 import TrainedRecommender

BATCH = 25
"""Histories per call of `generate`."""
CLEAR = 1e-3
"""A list is kept only if every step of its search has at least this gap at the cut-off: other machines round
differently."""


@dataclass(frozen=True)
class CodedDomain:
    """A domain's histories, and the semantic IDs of its items int32 [n, L + N + 1] by item row."""

    data: DomainData
    values: IntArray


@dataclass(frozen=True)
class ProvenLists:
    """Ranked lists on which graph and `generate` agree.

    Attributes
    ----------
    domain : the domain searched, one name per list
    history, history_mask : int64 [S] each, one per list
    tokens, log_prob : int32 [W, depth] and float32 [W], one per list
    figures : number of lists and of ties, greatest difference, and others
    tolerance : allowed difference of a score from `log_prob` for a graph in half precision; 0 for float32
    """

    domain: list[str]
    history: list[NDArray[np.int64]]
    history_mask: list[NDArray[np.int64]]
    tokens: list[IntArray]
    log_prob: list[NDArray[np.float32]]
    figures: dict[str, Any]
    tolerance: float = 0.0

    def keep(self, domain: str, batch: Batch, found: BeamResult, row: int) -> None:
        """Add the list of one row of a batch, with its history without padding."""
        is_read = batch.mask[row] == 1
        self.domain.append(domain)
        self.history.append(batch.tokens[row][is_read])
        self.history_mask.append(batch.mask[row][is_read])
        self.tokens.append(found.tokens[row])
        self.log_prob.append(found.log_prob[row])


@dataclass(frozen=True)
class Histories:
    """Histories of one domain's test users: concatenated item rows, int32, and their row splits, int64
    [histories + 1]."""

    domain: CodedDomain
    rows: NDArray[np.int32]
    splits: NDArray[np.int64]


def draw_histories(
    domains: Sequence[CodedDomain], count: int, random: np.random.Generator, max_history: int
) -> list[Histories]:
    """Draw `count` histories of the test split (or all, if there are fewer), spread evenly over the domains.

    A domain without drawn histories is left out.

    Raises
    ------
    ModelError : there are no histories
    """
    splits = [split_for(each.data, max_history).test for each in domains]
    drawn = []
    for number, share in even_shares([len(test) for test in splits], count):
        test, domain = splits[number], domains[number]
        users = np.sort(random.choice(len(test), share, replace=False))
        parts = [domain.data.history_items[test.starts[user] : test.stops[user]] for user in users]
        if parts:
            lengths = np.cumsum([0, *(len(part) for part in parts)], dtype=np.int64)
            drawn.append(Histories(domain, np.concatenate(parts), lengths))
    if not drawn:
        raise ModelError("no domain has a user with three interactions, so no ranked list can be proven")
    return drawn


def prove_lists(
    recommender: Recommender,
    trained: TrainedRecommender,
    drawn: Sequence[Histories],
    *,
    beams: int,
    advance: Advance,
    keep: int = 0,
) -> ProvenLists:
    """Compare the graph with `generate`, domain by domain.

    Parameters
    ----------
    beams : W of the searches
    keep : number of clear lists (see `CLEAR`) to keep, spread over the domains

    Raises
    ------
    ModelError : a list differs by more than a tie
    """
    proven = ProvenLists([], [], [], [], [], {})
    lists, ties, torn, greatest, levels = 0, 0, 0, 0.0, 0.0
    for histories in drawn:
        name, layout = histories.domain.data.name, trained.layout
        tokens = layout.tokens(histories.domain.values)
        index, allowed = one_root(tokens), AllowedTokens(tokens)
        wanted = -(-keep // len(drawn))
        for batch in batches(histories, trained):
            found = search_all(recommender, batch, index, beams)
            expected = generate_lists(trained.model, batch.tokens, batch.mask, allowed, beams)
            for row in range(len(batch.tokens)):
                compared = compare_lists(
                    expected.tokens[row], expected.log_prob[row], found.tokens[row], found.log_prob[row]
                )
                one = batch.tokens[row][batch.mask[row] == 1], batch.mask[row][batch.mask[row] == 1]
                if compared.problem is not None:
                    # Two correct searches may diverge where a step keeps one of two beams with equal scores.
                    if narrowest_choice(trained.model, *one, tokens, beams) > TIE:
                        raise ModelError(f"recommender {recommender.part.name}, {name}: {compared.problem}")
                    torn += 1
                else:
                    ties, greatest = ties + compared.ties, max(greatest, compared.difference)
                    levels = max(levels, _level_difference(expected, found, row))
                    if not levels <= TIE:
                        raise ModelError(
                            f"recommender {recommender.part.name}, {name}: log_prob_by_level: differs by {levels:.3g}, "
                            f"but at most {TIE:.3g} is rounding"
                        )
                    clear = wanted > 0 and not compared.ties
                    if clear and narrowest_choice(trained.model, *one, tokens, beams) > CLEAR:
                        wanted -= 1
                        proven.keep(name, batch, found, row)
            lists += len(batch.tokens)
            advance(len(batch.tokens))
    figures = {
        "histories": lists,
        "domains": len(drawn),
        "beams": beams,
        "tied_ranks": ties,
        "lists_parted_by_a_tie": torn,
        "greatest_difference": greatest,
        "greatest_difference_of_a_level": levels,
    }
    return replace(proven, figures=figures)


def one_root(tokens: IntArray) -> TrieArrays:
    """The index of all items of a domain, int32 [n, depth]; a leaf is an item's row."""
    leaves = np.arange(len(tokens), dtype=np.int32)
    return CodeTrie.from_tokens(tokens, np.zeros_like(leaves), leaves, root_count=1).arrays()


def search_all(recommender: Recommender, batch: Batch, index: TrieArrays, beams: int) -> BeamResult:
    """Search an index with one root, without blocked edges."""
    roots = np.zeros((len(batch.tokens), 1), dtype=np.int32)
    return recommender.search(batch.tokens, batch.mask, index, roots, np.full_like(roots, -1), beams)


def _level_difference(expected: GeneratedLists, found: BeamResult, row: int) -> float:
    """Greatest difference in the score of a level, over the results that both lists have at the same rank."""
    same = (expected.tokens[row] == found.tokens[row]).all(axis=1) & np.isfinite(expected.log_prob[row])
    gaps = np.abs(expected.log_prob_by_level[row, same] - found.log_prob_by_level[row, same])
    return float(gaps.max(initial=0.0))


@dataclass(frozen=True)
class Batch:
    """int64 [B, S] tokens and mask."""

    tokens: NDArray[np.int64]
    mask: NDArray[np.int64]


def batches(histories: Histories, trained: TrainedRecommender) -> Iterator[Batch]:
    """Batches of histories as input of the recommender."""
    layout, splits = trained.layout, histories.splits
    lead = layout.domain_token(histories.domain.data.name)
    for start in range(0, len(splits) - 1, BATCH):
        own = splits[start : start + BATCH + 1]
        values = histories.domain.values[histories.rows[own[0] : own[-1]]]
        domain_tokens = np.full(len(own) - 1, lead, dtype=np.int64) if layout.domains else None
        laid = history_tokens(layout, values, own - own[0], trained.max_history, domain_tokens)
        yield Batch(laid.tokens, laid.mask)
