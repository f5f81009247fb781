"""Repeated items among the results: history items are searched separately, and their scores are adjusted.

The score gain of repeated items is learned for each domain (`repeats` in a recommender's entry of the manifest) and is
not part of its network. History items are searched alone, the others without them, and both lists are merged.

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
from service.operations.searching import Recommendation


def gains(history: Sequence[ItemKey], learned: Mapping[str, LearnedRepeats], furthest: int) -> dict[ItemKey, float]:
    """Score gain of each item of a history (oldest first), for domains with learned gains.

    How long ago an item occurred is counted in items of its domain, as in training. The count is capped at `furthest`,
    because beyond that nothing was learned about how gains fade.
    """
    found: dict[ItemKey, float] = {}
    for domain in dict.fromkeys(key.domain for key in history):
        if domain in learned:
            its = met([key for key in history if key.domain == domain])
            ago, times = zip(*its.values(), strict=True)
            found.update(zip(its, learned[domain].gains(np.minimum(ago, furthest), times).tolist(), strict=True))
    return found


def apart(gained: Mapping[ItemKey, float], beams: int) -> list[tuple[ItemKey, ...]]:
    """Split repeated items into groups to be searched separately: as few as possible without losing a result.

    A search keeps its best items by their scores before the gain. This is correct if it returns the whole group, or if
    all items of the group have the same gain. So items with the same gain form their own group if they are more than
    `beams`; all others are cut into groups of at most `beams`.

    Parameters
    ----------
    gained : items that may be returned, with their gains
    beams : results that the search of a group keeps
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
    """Merge both lists into at most k results, best first.

    Parameters
    ----------
    others : results that are not in the history, best first
    repeated : results that are, in any order
    gained : score gains of the repeated items
    """
    raised = [_raised(item, gained[ItemKey(item.domain, item.item_id)]) for item in repeated]
    raised.sort(key=_from_the_best)
    return list(islice(heapq.merge(others, raised, key=_from_the_best), k))


def _from_the_best(item: Recommendation) -> float:
    return -item.score


def _raised(item: Recommendation, gain: float) -> Recommendation:
    """The same item with its gain added to the score, and to its last token, which completes the item's ID."""
    levels = item.score_by_level
    if levels is not None:
        levels = (*levels[:-1], replace(levels[-1], log_prob=levels[-1].log_prob + gain))
    return replace(item, score=item.score + gain, score_by_level=levels)
