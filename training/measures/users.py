"""Which users are evaluated, and on what part of their histories. Knows nothing of recommenders or figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from training.data.dataset import DomainData
from training.data.split import MAX_HISTORY, Examples, Split, leave_one_out


def split_for(domain: DomainData, max_history: int) -> Split:
    """The split of a domain for a recommender that reads `max_history` items.

    Their limit is never below `MAX_HISTORY`, so that removing a history's items removes the same ones for all
    recommenders that read fewer.
    """
    return leave_one_out(domain.history_items, domain.history_starts, max(MAX_HISTORY, max_history))


def evaluated_users(examples: Examples, max_users: int | None, seed: int) -> Examples:
    """All examples, or `max_users` of them drawn at random without replacement, in their original order."""
    if max_users is None or max_users >= len(examples):
        return examples
    rows = np.sort(np.random.default_rng(seed).permutation(len(examples))[:max_users])
    return Examples(examples.users[rows], examples.targets[rows], examples.starts[rows], examples.stops[rows])


def even_shares(sizes: Sequence[int], total: int) -> list[tuple[int, int]]:
    """Distribute `total` over groups as evenly as their sizes allow.

    Returns
    -------
    number and share of every group, the smallest group first: what it cannot give is taken from the larger ones
    """
    shares, left = [], total
    for taken, place in enumerate(np.argsort(sizes, kind="stable").tolist()):
        share = min(int(sizes[place]), -(-left // (len(sizes) - taken)))
        shares.append((place, share))
        left -= share
    return shares
