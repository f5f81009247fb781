"""The recommend operation: from a history of known and raw items to the most likely next items.

Rules where the contract leaves a choice:

- The recommender reads the most recent readable entries, as many as it was trained on; older raw entries are not
  tokenized. Excluding the history excludes all of it.
- Domains default to those of the allow list; without one to those of the history that hold items; if none does, to all.
- The beam width defaults to the configured one, or to k if k is larger.
- Scores of history items that are not excluded are adjusted by what the recommender has learned about repeats in their
  domain; these items are searched separately from the others.

`service/operations/histories.py` defines which entries of a history are read. Knows nothing of HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from service.catalogue.live import LiveCatalogue
from service.catalogue.records import NO_ID, ItemKey, with_items
from service.catalogue.view import PublishedIds
from service.engine.engine import Engine
from service.errors import InvalidInput, UnknownDomain
from service.limits import Limits
from service.metrics import Metrics
from service.operations.encoding import Encoding
from service.operations.histories import Readable, key_of, leading_domain, may_come_again, read_history, unpublished
from service.operations.queries import RecommendQuery
from service.operations.repeats import apart, merged
from service.operations.searching import Recommendation, Searching, SearchJob
from service.overload.early_admission import EarlyAdmission
from service.semantic_ids import IntArray


@dataclass(frozen=True, slots=True)
class Recommendations:
    """Results, best first, and the history entries that could not be read."""

    items: tuple[Recommendation, ...]
    unknown: tuple[ItemKey, ...]


class Recommending:
    """The recommend operation on one engine and one catalogue.

    Parameters
    ----------
    engine : provides the recommenders
    encoding, searching : the two queues
    catalogue : the live catalogue
    default_beam_width : for requests that name none
    early : admits the requests of this operation
    limits, metrics : shared with the other operations
    """

    def __init__(
        self,
        *,
        engine: Engine,
        encoding: Encoding,
        searching: Searching,
        catalogue: LiveCatalogue,
        default_beam_width: int,
        limits: Limits,
        early: EarlyAdmission,
        metrics: Metrics,
    ) -> None:
        self._engine = engine
        self._encoding = encoding
        self._searching = searching
        self._catalogue = catalogue
        self._default_beam_width = default_beam_width
        self._limits = limits
        self._early = early
        self._metrics = metrics

    def cost(self, query: RecommendQuery) -> int:
        """Number of items a request is charged for: 1 for its search, and 1 for each history entry to be encoded."""
        keys = [key_of(item) for item in query.history if item.item_id is None or item.has_content]
        return 1 + int((self._catalogue.ids(keys)[:, 0] == NO_ID).sum()) if keys else 1

    async def recommend(self, query: RecommendQuery, *, probe: bool = False) -> Recommendations:
        """Recommend at most k items, best first, each once, none excluded; fewer than k only if fewer qualify.

        Parameters
        ----------
        probe : as in `Tokenizing.tokenize`

        Raises
        ------
        InvalidInput : a field is wrong, or no entry of the history can be read
        UnknownDomain : a domain holds no item; the message names those that do
        LimitExceeded : a list, a text or a number exceeds its limit
        Overloaded : the request was not admitted; nothing was done
        """
        beams = self._check(query)
        known = self._catalogue.domains()
        self._check_domains(query.domains, known)
        published = self._catalogue.ids([key_of(item) for item in query.history])
        readable, unknown = read_history(query.history, (published[:, 0] != NO_ID).tolist(), known)
        domains = self._domains(query, readable, known)
        recommender = self._engine.recommender_for(domains)
        recent = readable[-recommender.part.max_history :]
        raw = [entry for entry in recent if not entry.known]
        gained = {} if query.exclude_history else may_come_again(readable, query.allow, domains, recommender.part)
        # At least the default width, so that a request with few beams does not split into many searches.
        width = max(beams, self._default_beam_width)
        groups = apart(gained, width)
        expected = self._searching.expected(1 + len(groups))
        if raw:
            expected += self._encoding.expected(len(raw))
        with nullcontext() if probe else self._early.enter(1 + len(raw), expected):
            history = published[[entry.position for entry in recent]]
            if raw:
                history[[not entry.known for entry in recent]] = await self._encoded(raw)
            left_out = [
                entry for entry in readable if entry.known and (query.exclude_history or key_of(entry.item) in gained)
            ]
            excluded = [*query.exclude, *(unpublished(readable, unknown) if query.exclude_history else ())]
            job = SearchJob(
                recommender=recommender,
                history=history,
                domains=domains,
                leading_domain=leading_domain(recent, domains),
                excluded=tuple(dict.fromkeys(excluded)),
                excluded_ids=PublishedIds(
                    [entry.item.domain for entry in left_out], published[[entry.position for entry in left_out]]
                ),
                allowed=query.allow,
                k=query.k,
                beams=beams,
                explain=query.explain,
            )
            alone = [replace(job, allowed=group, excluded_ids=None, k=width, beams=width) for group in groups]
            items, *repeated = await self._searching.search([job, *alone])
            if repeated:
                items = merged(items, chain.from_iterable(repeated), gained, query.k)
        self._metrics.items("recommended", len(items))
        return Recommendations(tuple(items), unknown)

    def check_size(self, history: int) -> None:
        """Refuse a history that is too long, given only its length.

        Raises
        ------
        LimitExceeded : the history is too long
        """
        self._limits.check_count("history", history, self._limits.history)

    def _check(self, query: RecommendQuery) -> int:
        """Refuse a query that exceeds a limit; returns the beam width."""
        limits = self._limits
        self.check_size(len(query.history))
        for position, item in enumerate(query.history):
            limits.check_content(f"history[{position}]", item.content)
        limits.check_number("k", query.k, limits.k)
        limits.check_count("exclude", len(query.exclude), limits.references)
        limits.check_count("allow", len(query.allow or ()), limits.references)
        if query.beam_width is None:
            return max(self._default_beam_width, query.k)
        limits.check_number("beam_width", query.beam_width, limits.beam_width)
        if query.beam_width < query.k:
            raise InvalidInput(f"is {query.beam_width}, but must be at least k, which is {query.k}", "beam_width")
        return query.beam_width

    def _check_domains(self, domains: Sequence[str] | None, known: Sequence[str] | dict[str, int]) -> None:
        for position, domain in enumerate(domains or ()):
            if domain not in known:
                raise UnknownDomain(f"{domain!r} holds no item; {with_items(known)}", f"domains[{position}]")

    def _domains(self, query: RecommendQuery, readable: Sequence[Readable], known: dict[str, int]) -> tuple[str, ...]:
        """Domains to search; see the rules at the top of the module."""
        if query.domains is not None:
            return query.domains
        if query.allow is not None:
            wanted = [key.domain for key in query.allow]
        else:
            wanted = [entry.item.domain for entry in readable]
        return tuple(dict.fromkeys(domain for domain in wanted if domain in known)) or tuple(known)

    async def _encoded(self, raw: Sequence[Readable]) -> IntArray:
        """Semantic IDs computed from the content of raw items, int32 [n, L + N + 1], with suffix 0."""
        encoded = await self._encoding.encode(
            [entry.item for entry in raw], [f"history[{entry.position}]" for entry in raw]
        )
        return np.stack([np.concatenate([said.codes, said.experts, [0]]) for said in encoded]).astype(np.int32)
