"""Items of the history among the results: found apart from the others, and raised by what a recommender has learned.

How likely an item is to come again is learned for each domain (`repeats` of a recommender's entry in the manifest) and
no part of its network: the items of the history are searched alone, the others without them, and both lists become one.

Knows nothing of queues, nor of where items are kept.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from service.catalogue.store import ItemKey
from service.searching import Recommendation


def apart(keys: Iterable[ItemKey], repeats: Mapping[str, float], beams: int) -> list[tuple[ItemKey, ...]]:
    """Items of a history in groups to be searched alone, as few as lose none that belongs in the list.

    A search keeps its best by what they score before they gain: right where all of them come out, or all gain alike.

    Parameters
    ----------
    keys : of domains that `repeats` names
    beams : results that a search of a group keeps
    """
    distinct = tuple(dict.fromkeys(keys))
    if len(distinct) <= beams:
        return [distinct] if distinct else []
    alike: dict[float, list[ItemKey]] = {}
    for key in distinct:
        alike.setdefault(repeats[key.domain], []).append(key)
    return [tuple(group) for group in alike.values()]


def merged(
    others: Sequence[Recommendation], repeated: Sequence[Recommendation], repeats: Mapping[str, float], k: int
) -> list[Recommendation]:
    """At most k of both, best first.

    Parameters
    ----------
    others : results that are not of the history, best first
    repeated : results that are, in any order
    repeats : by domain, what the scores of these gain; nothing where a domain is not named
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
