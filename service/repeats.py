"""Items of the history among the results: found apart from the others, and raised by what a recommender has learned.

How likely an item is to come again is learned for each domain (`repeats` of a recommender's entry in the manifest) and
no part of its network: the items of the history are searched alone, the others without them, and both lists become one.

Knows nothing of queues, nor of where items are kept.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice

from service.searching import Recommendation


def merged(
    others: Sequence[Recommendation], repeated: Sequence[Recommendation], repeats: Mapping[str, float], k: int
) -> list[Recommendation]:
    """At most k of both, best first.

    Parameters
    ----------
    others, repeated : results that are not of the history, and results that are, each best first
    repeats : by domain, what the scores of the latter gain; nothing where a domain is not named
    """
    raised = sorted((_raised(item, repeats.get(item.domain, 0.0)) for item in repeated), key=_from_the_best)
    return list(islice(heapq.merge(others, raised, key=_from_the_best), k))


def _from_the_best(item: Recommendation) -> float:
    return -item.score


def _raised(item: Recommendation, bonus: float) -> Recommendation:
    """The same with another score; what it gains is told with its last token, which makes it that very item."""
    levels = item.score_by_level
    if levels is not None:
        levels = (*levels[:-1], replace(levels[-1], log_prob=levels[-1].log_prob + bonus))
    return replace(item, score=item.score + bonus, score_by_level=levels)
