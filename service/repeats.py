"""Items of the history among the results: found apart from the others, and raised by what a recommender has learned.

What items gain that come again is learned for each domain (`repeats` of a recommender's entry in the manifest) and no
part of its network: the items of the history are searched alone, the others without them, and both lists become one.

Knows nothing of queues, nor of where items are kept.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np

from service.bundle.repeats import LearnedRepeats, met
from service.catalogue.records import ItemKey
from service.searching import Recommendation


def gains(history: Sequence[ItemKey], learned: Mapping[str, LearnedRepeats], furthest: int) -> dict[ItemKey, float]:
    """What each item of a history gains, oldest first, if anything was learned of its domain.

    How long ago an item was met is counted in items of its domain, as where it was learned, and no further than there:
    beyond `furthest` items nothing is known of how gains fade.
    """
    found: dict[ItemKey, float] = {}
    for domain in dict.fromkeys(key.domain for key in history):
        if domain in learned:
            its = met([key for key in history if key.domain == domain])
            ago, times = zip(*its.values(), strict=True)
            found.update(zip(its, learned[domain].gains(np.minimum(ago, furthest), times).tolist(), strict=True))
    return found


def apart(gained: Mapping[ItemKey, float], beams: int) -> list[tuple[ItemKey, ...]]:
    """Items in groups to be searched alone, as few as lose none that belongs in the list.

    A search keeps its best by what they score before they gain: right where all of them come out, or all gain alike. So
    items that gain alike are a group of their own where they are more than come out, and the rest is cut into such.

    Parameters
    ----------
    gained : items that may come out, with what they gain
    beams : results that a search of a group keeps
    """
    alike: dict[float, list[ItemKey]] = {}
    for key, gain in gained.items():
        alike.setdefault(gain, []).append(key)
    groups = [tuple(group) for group in alike.values() if len(group) > beams]
    rest = [key for group in alike.values() if len(group) <= beams for key in group]
    return [*groups, *(tuple(rest[at : at + beams]) for at in range(0, len(rest), beams))]


def merged(
    others: Sequence[Recommendation], repeated: Iterable[Recommendation], gained: Mapping[ItemKey, float], k: int
) -> list[Recommendation]:
    """At most k of both, best first.

    Parameters
    ----------
    others : results that are not of the history, best first
    repeated : results that are, in any order
    gained : what the scores of these gain
    """
    raised = [_raised(item, gained[ItemKey(item.domain, item.item_id)]) for item in repeated]
    raised.sort(key=_from_the_best)
    return list(islice(heapq.merge(others, raised, key=_from_the_best), k))


def _from_the_best(item: Recommendation) -> float:
    return -item.score


def _raised(item: Recommendation, gain: float) -> Recommendation:
    """The same with another score; what it gains is told with its last token, which makes it that very item."""
    levels = item.score_by_level
    if levels is not None:
        levels = (*levels[:-1], replace(levels[-1], log_prob=levels[-1].log_prob + gain))
    return replace(item, score=item.score + gain, score_by_level=levels)
