"""Compares two ranked lists. Scores that differ only by rounding are ties, and tied items may be in either order.

Knows nothing of how the lists were ranked.

Symbols: W beams, depth = L + N + 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.semantic_ids import IntArray

TIE = 1e-4
"""Smaller differences of scores, in natural logarithms, count as rounding."""
BEST = 10
"""Number of top items that are compared when lists need not be equal."""


@dataclass(frozen=True)
class Comparison:
    """Result of comparing two lists.

    Attributes
    ----------
    problem : message on what differs by more than a tie; None if the lists are equal
    ties : number of ranks at which the items differ but the scores do not
    difference : greatest difference of two scores at the same rank
    """

    problem: str | None
    ties: int
    difference: float


def compare_lists(
    expected: IntArray,
    expected_score: NDArray[np.float32],
    found: IntArray,
    found_score: NDArray[np.float32],
    tie: float = TIE,
) -> Comparison:
    """Compare two ranked lists of one request.

    Parameters
    ----------
    expected, found : int32 [W, depth] tokens, best first
    expected_score, found_score : float32 [W], -inf where there is no result
    tie : scores closer than this are equal
    """
    count, found_count = int(np.isfinite(expected_score).sum()), int(np.isfinite(found_score).sum())
    if count != found_count:
        return Comparison(f"leaf: {found_count} results, but {count} are right", 0, float("inf"))
    expected, expected_score = expected[:count], expected_score[:count]
    found, found_score = found[:count], found_score[:count]
    gaps = np.abs(expected_score - found_score)
    difference = float(gaps.max(initial=0.0))
    if difference > tie:
        rank = int(gaps.argmax())
        return Comparison(
            f"log_prob: at rank {rank} {found_score[rank]:.6f}, but {expected_score[rank]:.6f} is right", 0, difference
        )
    differ = np.flatnonzero((expected != found).any(axis=1)).tolist()
    for rank in differ:
        same = np.flatnonzero((expected == found[rank]).all(axis=1))
        # An item missing in the other list may have lost a tie for the last rank.
        rival = expected_score[same[0]] if len(same) else expected_score[-1]
        if abs(float(found_score[rank]) - float(rival)) > tie:
            return Comparison(
                f"semantic_id: at rank {rank} {found[rank].tolist()}, but {expected[rank].tolist()} is right, "
                f"and their scores are no tie",
                0,
                difference,
            )
    return Comparison(None, len(differ), difference)


@dataclass(frozen=True)
class Kept:
    """Overlap of two lists whose scores were rounded differently, as in half precision.

    Attributes
    ----------
    best : number of top items of the expected list: `BEST`, or all if it has fewer
    kept : number of these that are among the top `BEST` of the other list
    difference : greatest difference of two scores of the same item, at any ranks
    """

    best: int
    kept: int
    difference: float


def compare_best(
    expected: IntArray,
    expected_score: NDArray[np.float32],
    found: IntArray,
    found_score: NDArray[np.float32],
) -> Kept:
    """Compare two lists of one request that may differ where scores are close; parameters as in `compare_lists`."""
    count, found_count = int(np.isfinite(expected_score).sum()), int(np.isfinite(found_score).sum())
    places = {tuple(item): place for place, item in enumerate(found[:found_count].tolist())}
    at = np.asarray([places.get(tuple(item), -1) for item in expected[:count].tolist()], dtype=np.intp)
    gaps = np.abs(expected_score[:count][at >= 0] - found_score[at[at >= 0]])
    best = at[:BEST]
    return Kept(len(best), int(((best >= 0) & (best < BEST)).sum()), float(gaps.max(initial=0.0)))
