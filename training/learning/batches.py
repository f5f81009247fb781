"""Groups examples into batches of about equal cost, bucketed by length.

All examples of an epoch are sorted by the length of their history (ties at random) and cut at a budget of padded
tokens, so a batch has little padding. The order of the batches is then shuffled. Knows nothing of what examples are.

Symbols: n examples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

IntVector = NDArray[np.int64]


def cut_by_budget(lengths: IntVector, extra: int, budget: int, order: IntVector) -> list[IntVector]:
    """Cut examples into batches of at most `budget` padded tokens (or one example, where that is longer).

    Parameters
    ----------
    lengths : int64 [n], tokens of each example's history
    extra : further tokens that each example costs
    order : int64 [m], the examples to cut, longest first
    """
    batches, at = [], 0
    while at < len(order):
        rows = max(1, budget // int(lengths[order[at]] + extra))
        batches.append(order[at : at + rows])
        at += rows
    return batches


def epoch_batches(
    lengths: IntVector,
    rows: IntVector,
    rng: np.random.Generator,
    *,
    extra: int,
    budget: int,
    devices: int,
    groups: IntVector | None = None,
) -> list[IntVector]:
    """Batches of one epoch, in training order.

    Batches are shuffled in blocks of `devices` neighbours of the sorted order: the devices get one each, and these cost
    about the same. If the number of batches is no multiple of `devices`, a few are used twice. If `groups`, int64 [n],
    is given, each batch holds examples of a single group.
    """
    of_row = np.zeros(len(rows), dtype=np.int64) if groups is None else groups[rows]
    order = np.lexsort((rng.random(len(rows)), -lengths[rows], of_row))
    ends = np.flatnonzero(np.diff(of_row[order], append=-1)) + 1
    batches = [
        batch for part in np.split(rows[order], ends[:-1]) for batch in cut_by_budget(lengths, extra, budget, part)
    ]
    batches += [batches[number % len(batches)] for number in range(-len(batches) % devices)]
    groups_of_devices = [batches[at : at + devices] for at in range(0, len(batches), devices)]
    return [batch for number in rng.permutation(len(groups_of_devices)) for batch in groups_of_devices[number]]
