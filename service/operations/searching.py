"""Searches of the constraint index, in batches shared by all callers.

One batch holds searches on one recommender with one beam width and a similar number of excluded items, since every row
is padded to the longest list of excluded items. Knows nothing of histories as callers write them, of HTTP or of
networks.

Symbols: B batch, S sequence, R roots, X blocked edges, W beams.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from service.catalogue.live import LiveCatalogue
from service.catalogue.records import ItemKey
from service.catalogue.view import CatalogueView, PublishedIds
from service.engine.engine import SearchesItems
from service.engine.history_tokens import HistoryTokens, history_tokens
from service.engine.recommender import BeamResult
from service.metrics import Metrics
from service.operations.batching import Batcher
from service.overload.throughput import Expected
from service.semantic_ids import UNKNOWN_DOMAIN_TOKEN, IntArray, SemanticId

NO_NODE = -1
EXCLUDED_OF_A_BEAM = 20
"""Number of excluded items whose lookup and blocking take about as long as one beam of a small recommender."""


@dataclass(frozen=True, slots=True, eq=False)
class SearchJob:
    """One search in the queue.

    Attributes
    ----------
    history : int32 [n, L + N + 1], semantic IDs of the items, oldest first
    domains : domains to search
    leading_domain : domain whose token starts the history, for recommenders that read one
    excluded : items that must not be returned; unknown ones are harmless
    excluded_ids : further excluded items, by their published IDs
    allowed : the only items that may be returned, None for all
    k, beams : number of results, and W >= k
    explain : also return what each token of a result adds to its score
    """

    recommender: SearchesItems
    history: IntArray
    domains: tuple[str, ...]
    leading_domain: str | None
    excluded: tuple[ItemKey, ...]
    excluded_ids: PublishedIds | None
    allowed: tuple[ItemKey, ...] | None
    k: int
    beams: int
    explain: bool = False

    def group(self) -> Hashable:
        """Key shared by all jobs of one batch; a job with an allow list has its own index, so it runs alone."""
        if self.allowed is not None:
            return id(self)
        return self.recommender.part.name, self.beams, self._excluded_count.bit_length() // 4

    @property
    def size(self) -> int:
        """Cost of the job, in beams."""
        return self.beams + self._excluded_count // EXCLUDED_OF_A_BEAM

    @property
    def _excluded_count(self) -> int:
        return len(self.excluded) + (0 if self.excluded_ids is None else len(self.excluded_ids.domains))


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A token of a result, and its log-probability given the history and the tokens before it."""

    token: str
    log_prob: float


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One recommended item.

    Attributes
    ----------
    score : log-probability of its semantic ID
    score_by_level : what each of its L + N + 1 tokens adds to the score; None unless asked for
    """

    domain: str
    item_id: str
    score: float
    semantic_id: SemanticId
    title: str | None
    score_by_level: tuple[TokenScore, ...] | None = None


class Searching:
    """Runs searches on the live catalogue.

    Parameters
    ----------
    catalogue : the items to search
    batch_beams : bound on a batch's requests x size of the largest
    metrics : records how long the phase takes
    """

    def __init__(self, catalogue: LiveCatalogue, batch_beams: int, metrics: Metrics) -> None:
        self._catalogue = catalogue
        self._metrics = metrics
        self.batcher: Batcher[SearchJob, list[Recommendation]] = Batcher(
            "search",
            self._run,
            budget=batch_beams,
            size=lambda job: job.size,
            group=SearchJob.group,
            report=metrics.batch("search"),
            tracing=metrics.tracing,
        )

    def expected(self, searches: int = 1) -> Expected:
        """Expected waiting and running time of this many searches."""
        return self.batcher.expected(searches)

    async def search(self, jobs: Sequence[SearchJob]) -> list[list[Recommendation]]:
        """Run searches; at most k results each, best first, each item once; fewer only if fewer items qualify."""
        return await self.batcher.submit(jobs)

    def _run(self, jobs: Sequence[SearchJob]) -> list[list[Recommendation]]:
        """Run one batch, on the batcher's thread, on one snapshot of the catalogue."""
        first = jobs[0]
        tokens = _histories(jobs)
        with self._catalogue.searching() as whole:
            view = whole if first.allowed is None else whole.restricted(first.allowed)
            roots = _padded([view.roots(job.domains) for job in jobs])
            blocked = _padded([view.blocked(job.excluded, job.excluded_ids) for job in jobs])
            with self._metrics.phase("beam"):
                found = first.recommender.search(
                    history=tokens.tokens,
                    history_mask=tokens.mask,
                    index=view.arrays,
                    roots=roots,
                    blocked=blocked,
                    beams=first.beams,
                )
            return [self._results(view, found, row, job) for row, job in enumerate(jobs)]

    @staticmethod
    def _results(view: CatalogueView, found: BeamResult, row: int, job: SearchJob) -> list[Recommendation]:
        """The items of one row, best first; leaves below 0 mark the end of a row with fewer than k."""
        count = np.count_nonzero(found.leaf[row, : job.k] >= 0)
        entries, layout = view.items(found.leaf[row, :count], found.tokens[row, :count]), job.recommender.layout
        recommended = []
        for place, (entry, score) in enumerate(zip(entries, found.log_prob[row, :count].tolist(), strict=True)):
            semantic_id, levels = layout.semantic_id(entry.values), None
            if job.explain:
                gained = found.log_prob_by_level[row, place].tolist()
                levels = tuple(map(TokenScore, layout.position_names(semantic_id), gained))
            recommended.append(Recommendation(entry.domain, entry.item_id, score, semantic_id, entry.title, levels))
        return recommended


def _histories(jobs: Sequence[SearchJob]) -> HistoryTokens:
    """The histories of a batch as tokens, after a domain token if the recommender reads one."""
    recommender = jobs[0].recommender
    splits = np.array(list(accumulate((len(job.history) for job in jobs), initial=0)))
    leading = None
    if recommender.layout.domains:
        names = [job.leading_domain for job in jobs]
        leading = np.asarray(
            [UNKNOWN_DOMAIN_TOKEN if name is None else recommender.layout.domain_token(name) for name in names],
            dtype=np.int64,
        )
    values = np.concatenate([job.history for job in jobs])
    return history_tokens(recommender.layout, values, splits, recommender.part.max_history, leading)


def _padded(rows: Sequence[IntArray]) -> IntArray:
    """Rows of different lengths as int32 [B, longest], at least one column wide, padded with -1."""
    padded = np.full((len(rows), max(1, *(len(row) for row in rows))), NO_NODE, dtype=np.int32)
    for row, values in enumerate(rows):
        padded[row, : len(values)] = values
    return padded
