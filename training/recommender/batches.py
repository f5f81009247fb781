"""Examples -> batches of about equal cost, bucketed by length, and batches -> arrays.

All examples of an epoch are sorted by the length of their history (ties at random) and cut at a budget of padded
tokens, so a batch holds hardly any padding; the order of the batches is then shuffled. Knows nothing of networks.

Symbols: B batch, S sequence, n examples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.engine.history_tokens import history_tokens
from training.data.balance import domain_quotas
from training.data.split import positions
from training.recommender.corpus import Corpus, ExampleSet, IntVector


@dataclass(frozen=True)
class Batch:
    """What the network reads: `history`, `mask` int64 [B, S] and `targets` int64 [B, L + N + 1], all tokens."""

    history: NDArray[np.int64]
    mask: NDArray[np.int64]
    targets: NDArray[np.int64]


def collate(corpus: Corpus, examples: ExampleSet, max_history: int) -> Batch:
    """Lay examples out as tokens."""
    lengths = examples.stop - examples.start
    row_splits = np.concatenate([[0], np.cumsum(lengths)])
    items = corpus.history_items[positions(examples.start, examples.stop)]
    domain_tokens = None
    if corpus.layout.domains:
        tokens = np.asarray([corpus.layout.domain_token(name) for name in corpus.domains], dtype=np.int64)
        domain_tokens = tokens[examples.domain]
    history = history_tokens(corpus.layout, corpus.values[items], row_splits, max_history, domain_tokens)
    targets = corpus.layout.tokens(corpus.values[corpus.history_items[examples.stop]]).astype(np.int64)
    return Batch(history.tokens, history.mask, targets)


def cut_by_budget(lengths: IntVector, extra: int, budget: int, order: IntVector) -> list[IntVector]:
    """Cut examples into batches of at most `budget` padded tokens (or one example, where that is longer).

    Parameters
    ----------
    lengths : int64 [n], tokens of each example's history
    extra : tokens that an example costs besides
    order : int64 [m], the examples to cut, longest first
    """
    batches, at = [], 0
    while at < len(order):
        rows = max(1, budget // int(lengths[order[at]] + extra))
        batches.append(order[at : at + rows])
        at += rows
    return batches


def epoch_examples(
    examples: ExampleSet, rng: np.random.Generator, domain_balance: float, examples_per_user: int | None
) -> IntVector:
    """Which examples an epoch takes: rows of `examples`, in no particular order.

    With a balance of 1 every example is taken once, except that no user gives more than `examples_per_user`. With a
    lower balance, domains are drawn in proportion to their examples to that power, as many in all; an example then
    comes again only when all of its domain were taken.
    """
    rows = np.arange(len(examples), dtype=np.int64)
    if examples_per_user is not None:
        shuffled = rng.permutation(rows)
        by_user = shuffled[np.argsort(examples.user[shuffled], kind="stable")]
        users = examples.user[by_user]
        first_of_user = np.searchsorted(users, users)
        rows = by_user[np.arange(len(users)) - first_of_user < examples_per_user]
    if domain_balance == 1.0:
        return rows
    domain = examples.domain[rows]
    sizes = np.bincount(domain)
    quotas = domain_quotas(sizes, domain_balance, len(rows))
    taken = []
    for number in np.flatnonzero(sizes):
        own = rows[domain == number]
        full, rest = divmod(int(quotas[number]), len(own))
        taken += [own] * full + [rng.permutation(own)[:rest]]
    return np.concatenate(taken)


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
    """Batches of one epoch, in the order in which they are trained on.

    `devices` neighbours in the sorted order, which cost about the same, stay neighbours: each goes to a device of its
    own. Where their number does not divide by it, a few are used twice. Of several groups, int64 [n],
    a batch holds one.
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
