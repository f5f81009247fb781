"""Baselines without epochs of training: popularity, a random order, matrix factorisation.

Each consists of arrays, which are its artefact, and a scorer. Knows nothing of files.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.baselines.corpus import Corpus
from training.baselines.parameters import FactorizationParameters, PopularityParameters, RandomParameters
from training.baselines.scoring import Scorer
from training.data.split import PADDING
from training.measures.ranking import most_popular

AnyRule = FactorizationParameters | PopularityParameters | RandomParameters
IntVector = NDArray[np.int64]


@dataclass(frozen=True)
class Rule:
    """A finished baseline: `arrays` by name, and the scorer that uses them."""

    arrays: dict[str, Tensor]
    scorer: Scorer


def make_rule(corpus: Corpus, parameters: AnyRule) -> Rule:
    """Make the baseline of the parameters' kind."""
    if isinstance(parameters, PopularityParameters):
        return popularity(corpus)
    if isinstance(parameters, RandomParameters):
        return random_order(corpus.items, parameters.seed)
    return factorization(corpus, parameters)


def popularity(corpus: Corpus) -> Rule:
    """The most frequent items of the training part, ties by item number, for every user."""
    order = torch.from_numpy(most_popular(corpus.interactions().items, corpus.items, corpus.items))
    scores = torch.empty(corpus.items)
    scores[order] = -torch.arange(corpus.items, dtype=torch.float32)
    return Rule({"order": order}, lambda users, histories: scores.expand(len(users), -1))


def random_order(items: int, seed: int) -> Rule:
    """Scores from a hash of seed, user and item: uniform, independent, and the same however users are batched."""
    numbers = np.arange(items, dtype=np.uint64)

    def scores(users: IntVector, histories: NDArray[np.int32]) -> Tensor:
        del histories
        streams = _mixed(_mixed(np.uint64(seed)) + users.astype(np.uint64))
        bits = _mixed(streams[:, None] + numbers)
        return torch.from_numpy((bits >> np.uint64(40)).astype(np.float32))

    return Rule({"seed": torch.tensor([seed])}, scores)


def _mixed(values: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    """One step of SplitMix64 with its finalizer: every bit of the input affects every bit of the output."""
    with np.errstate(over="ignore"):
        mixed = np.asarray(values, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    out: NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(31))
    return out


def factorization(corpus: Corpus, parameters: FactorizationParameters) -> Rule:
    """Alternating least squares on the training part; a user's factors are solved for from the given history."""
    from implicit.cpu.als import AlternatingLeastSquares  # noqa: PLC0415 - slow to load, and of use here alone
    from scipy.sparse import csr_matrix  # noqa: PLC0415

    had = corpus.interactions()
    ones = np.ones(len(had.users), dtype=np.float32)
    model = AlternatingLeastSquares(
        factors=parameters.width,
        regularization=parameters.regularization,
        alpha=parameters.alpha,
        iterations=parameters.iterations,
        random_state=parameters.seed,
        num_threads=parameters.threads,
    )
    matrix = csr_matrix((ones, (had.users, had.items)), shape=(corpus.users, corpus.items))
    model.fit(matrix, show_progress=False)
    factors = torch.from_numpy(model.item_factors)

    def scores(users: IntVector, histories: NDArray[np.int32]) -> Tensor:
        rows, columns = np.nonzero(histories != PADDING)
        ones = np.ones(len(rows), dtype=np.float32)
        given = csr_matrix((ones, (rows, histories[rows, columns])), shape=(len(users), corpus.items))
        return torch.from_numpy(model.recalculate_user(users, given)) @ factors.T

    return Rule({"item_factors": factors}, scores)
