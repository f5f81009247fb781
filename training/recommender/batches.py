"""Groups examples into batches of about equal cost, bucketed by length, and turns batches into arrays.

All examples of an epoch are sorted by the length of their history (ties at random) and cut at a budget of padded
tokens, so a batch has little padding. The order of the batches is then shuffled. Knows nothing of networks.

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
    """Inputs of the network: `history` and its `mask`, int64 [B, S], and `targets`, int64 [B, L + N + 1], as tokens."""

    history: NDArray[np.int64]
    mask: NDArray[np.int64]
    targets: NDArray[np.int64]


def collate(corpus: Corpus, examples: ExampleSet, max_history: int) -> Batch:
    """Encode examples as tokens."""
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
    extra : further tokens that each example costs
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
    """The examples of an epoch: rows of `examples`, in no particular order.

    With a balance of 1 every example is taken once, but at most `examples_per_user` of each user. With a lower balance,
    the same total is divided among the domains in proportion to (examples of the domain)^balance; an example is
    repeated only after all others of its domain were taken.
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
