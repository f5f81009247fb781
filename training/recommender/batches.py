"""The examples of an epoch, and batches of them as arrays. Knows nothing of networks.

Symbols: B batch, S sequence.
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
