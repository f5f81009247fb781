"""The recommend operation: a history of known and raw items to the items most likely to follow.

Rules, where the contract leaves a choice:

- A history entry whose item is in the catalogue is read by its published semantic ID. Any other is tokenized from its
  content on the fly; without content it is unknown: reported, and not read. If nothing readable is left, the request is
  refused with the unknown names, since a recommendation after nothing would be a guess dressed as an answer.
- The recommender reads the most recent readable entries, as many as it was trained on; raw entries before those are not
  tokenized. Excluding the history excludes all of it.
- Domains default to those of the allow list; without one to those of the history that hold items; if none does, to all.
- The beam width defaults to the configured one, raised to k.
- Items of the history that are not excluded are raised, or lowered, by what the recommender has learned of repeats in
  their domain; they are then searched apart from the others.
- A recommender that reads a domain token gets that of the most recent history entry whose domain is searched, else of
  the first domain searched.

Knows nothing of HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

import numpy as np

from service.bundle.manifest import RecommenderPart
from service.catalogue.live import LiveCatalogue
from service.catalogue.records import NO_ID, ItemKey
from service.catalogue.view import PublishedIds
from service.encoding import Encoding
from service.engine.engine import Engine
from service.errors import InvalidInput, UnknownDomain
from service.limits import Limits
from service.line import Line
from service.metrics import Metrics
from service.queries import ItemInput, RecommendQuery
from service.repeats import apart, gains, merged
from service.searching import Recommendation, Searching, SearchJob
from service.semantic_ids import IntArray

NAMED_DOMAINS = 50
"""Known domains named in one message."""
NAMED_UNKNOWN = 20
"""Unknown items of a history named in one message."""


@dataclass(frozen=True, slots=True)
class Recommendations:
    """Results, best first, and the history entries that could not be read."""

    items: tuple[Recommendation, ...]
    unknown: tuple[ItemKey, ...]


class _Readable(NamedTuple):
    """A history entry that can be read: raw, or, of an item that is `known`, by its published ID."""

    position: int
    item: ItemInput
    known: bool


class Recommending:
    """The operation on one engine and one catalogue.

    Parameters
    ----------
    engine : for its recommenders
    encoding, searching : the two queues
    catalogue : the live catalogue
    default_beam_width : of requests that name none
    line : of the operation's own requests
    limits, metrics : shared with the other operation
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
        line: Line,
        metrics: Metrics,
    ) -> None:
        self._engine = engine
        self._encoding = encoding
        self._searching = searching
        self._catalogue = catalogue
        self._default_beam_width = default_beam_width
        self._limits = limits
        self._line = line
        self._metrics = metrics

    async def recommend(self, query: RecommendQuery) -> Recommendations:
        """At most k items, best first, each once, none excluded; fewer than k only if fewer qualify.

        Raises
        ------
        InvalidInput : a wrong field, or a history of which nothing can be read
        UnknownDomain : a domain that holds no item; the message names those that do
        LimitExceeded : a list, a text or a number above its limit
        Overloaded : no room; nothing was done
        """
        beams = self._check(query)
        known = self._catalogue.domains()
        self._check_domains(query.domains, known)
        published = self._catalogue.ids([_key(item) for item in query.history])
        readable, unknown = _read(query.history, (published[:, 0] != NO_ID).tolist())
        domains = self._domains(query, readable, known)
        recommender = self._engine.recommender_for(domains)
        recent = readable[-recommender.part.max_history :]
        raw = [entry for entry in recent if not entry.known]
        gained = {} if query.exclude_history else _again(readable, query.allow, domains, recommender.part)
        # At least the usual width: a caller who asks for few beams does not make many searches of one.
        width = max(beams, self._default_beam_width)
        groups = apart(gained, width)
        expected = self._searching.expected(1 + len(groups))
        if raw:
            expected += self._encoding.expected(len(raw))
        with self._line.enter(1 + len(raw), expected):
            history = published[[entry.position for entry in recent]]
            if raw:
                history[[not entry.known for entry in recent]] = await self._encoded(raw)
            left_out = [
                entry for entry in readable if entry.known and (query.exclude_history or _key(entry.item) in gained)
            ]
            excluded = [*query.exclude, *(_unpublished(readable, unknown) if query.exclude_history else ())]
            job = SearchJob(
                recommender=recommender,
                history=history,
                domains=domains,
                leading_domain=_leading_domain(recent, domains),
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
        """Refuse a history that is too long, of which nothing more need be known.

        Raises
        ------
        LimitExceeded : it is
        """
        self._limits.check_count("history", history, self._limits.history)

    def _check(self, query: RecommendQuery) -> int:
        """Refuse what exceeds a limit; returns the beam width."""
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
                names = sorted(known)
                listed = ", ".join(names[:NAMED_DOMAINS]) + (", ..." if len(names) > NAMED_DOMAINS else "")
                raise UnknownDomain(
                    f"{domain!r} holds no item; domains with items are {listed or '(none yet)'}",
                    f"domains[{position}]",
                )

    def _domains(self, query: RecommendQuery, readable: Sequence[_Readable], known: dict[str, int]) -> tuple[str, ...]:
        """Where to search; see the rules above."""
        if query.domains is not None:
            return query.domains
        if query.allow is not None:
            wanted = [key.domain for key in query.allow]
        else:
            wanted = [entry.item.domain for entry in readable]
        return tuple(dict.fromkeys(domain for domain in wanted if domain in known)) or tuple(known)

    async def _encoded(self, raw: Sequence[_Readable]) -> IntArray:
        """Semantic IDs of raw items by their content, int32 [n, L + N + 1], with suffix 0."""
        encoded = await self._encoding.encode(
            [entry.item for entry in raw], [f"history[{entry.position}]" for entry in raw]
        )
        return np.stack([np.concatenate([said.codes, said.experts, [0]]) for said in encoded]).astype(np.int32)


def _read(history: Sequence[ItemInput], known: Sequence[bool]) -> tuple[list[_Readable], tuple[ItemKey, ...]]:
    """Split a history, of which some items are known, into entries that can be read and names that nobody knows."""
    readable: list[_Readable] = []
    unknown: list[ItemKey] = []
    for position, (item, is_known) in enumerate(zip(history, known, strict=True)):
        if is_known or item.has_content:
            readable.append(_Readable(position, item, is_known))
        elif item.item_id is not None:
            unknown.append(_key(item))
        else:
            raise InvalidInput("needs an item_id, text or an embedding", f"history[{position}]")
    if not readable:
        distinct = tuple(dict.fromkeys(unknown))
        names = ", ".join(f"{key.item_id!r} of {key.domain!r}" for key in distinct[:NAMED_UNKNOWN])
        if len(distinct) > NAMED_UNKNOWN:
            names += f" and {len(distinct) - NAMED_UNKNOWN} more"
        raise InvalidInput(
            f"none of its items is known: {names}; register them, or send their content"
            if unknown
            else "is empty; at least one item is needed",
            "history",
        )
    return readable, tuple(dict.fromkeys(unknown))


def _unpublished(readable: Sequence[_Readable], unknown: Sequence[ItemKey]) -> list[ItemKey]:
    """Names in a history that were no items when it was read; they may be registered before the search."""
    raw = (entry.item for entry in readable if not entry.known)
    return [*unknown, *(_key(item) for item in raw if item.item_id is not None)]


def _leading_domain(recent: Sequence[_Readable], domains: Sequence[str]) -> str | None:
    """Whose token leads the history; None where nothing is searched."""
    searched = (entry.item.domain for entry in reversed(recent) if entry.item.domain in domains)
    return next(searched, domains[0] if domains else None)


def _again(
    readable: Sequence[_Readable],
    allowed: Sequence[ItemKey] | None,
    domains: Sequence[str],
    part: RecommenderPart,
) -> dict[ItemKey, float]:
    """Known items of a history that may come out once more, with what they gain; raw ones were met in between."""
    keys = [_key(entry.item) for entry in readable]
    learned = {name: part.repeats[name] for name in domains if name in part.repeats}
    found = gains(keys, learned, part.max_history)
    wanted = {key for key, entry in zip(keys, readable, strict=True) if entry.known}
    if allowed is not None:
        wanted &= set(allowed)
    return {key: gain for key, gain in found.items() if key in wanted}


def _key(item: ItemInput) -> ItemKey:
    """Key of an entry; the empty item_id, which no item has, where the caller gave none."""
    return ItemKey(item.domain, item.item_id or "")
