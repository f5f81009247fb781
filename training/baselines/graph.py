"""LightGCN as a baseline, trained with BPR on pairs of an item of the user and a random negative.

A user is identified by number: scores depend on the training part and ignore the given history. Knows nothing of
optimisers.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from training.baselines.corpus import Corpus
from training.baselines.parameters import LightGCNParameters
from training.baselines.scoring import Scorer
from training.networks.lightgcn import LightGCN, Smoothed

IntVector = NDArray[np.int64]


class GraphBaseline:
    """LightGCN over the interactions of the training part; a `Trainable` of `training.baselines.trainer`.

    Parameters
    ----------
    corpus, parameters : the data, and how to learn from it
    device : of the network
    """

    def __init__(self, corpus: Corpus, parameters: LightGCNParameters, device: torch.device) -> None:
        self.parameters, self.device = parameters, device
        had = corpus.interactions()
        self._users, self._items = had.users, had.items
        self._catalogue = corpus.items
        self._pairs = np.unique(self._users * corpus.items + self._items)
        self.network = LightGCN(
            self._users,
            self._items,
            (corpus.users, corpus.items),
            width=parameters.width,
            layers=parameters.layers,
        ).to(device)

    def batches(self, random: np.random.Generator) -> list[IntVector]:
        """Batches of an epoch's interactions, shuffled."""
        rows = random.permutation(len(self._users))
        return np.array_split(rows, -(-len(rows) // self.parameters.batch_pairs))

    def loss(self, batch: IntVector, random: np.random.Generator) -> Tensor:
        """BPR plus the L2 penalty on the batch's embeddings (He et al. 2020, Eq. 15)."""
        users, items = self._users[batch], self._items[batch]
        indices = (torch.from_numpy(rows).to(self.device) for rows in (users, items, self._others(users, random)))
        user, item, other = indices
        smoothed: Smoothed = self.network()
        difference = smoothed.items[item] - smoothed.items[other]
        ranking = F.softplus(-(smoothed.users[user] * difference).sum(dim=1)).mean()
        raw = (self.network.users[user], self.network.items[item], self.network.items[other])
        squares = torch.stack([rows.square().sum() for rows in raw]).sum()
        loss: Tensor = ranking + self.parameters.regularization * squares / (2 * len(batch))
        return loss

    def scorer(self) -> Scorer:
        """A scorer with the present weights, smoothed once."""
        self.network.eval()
        with torch.no_grad():
            smoothed: Smoothed = self.network()

        def scores(users: IntVector, histories: NDArray[np.int32]) -> Tensor:
            del histories
            return smoothed.users[torch.from_numpy(users).to(self.device)] @ smoothed.items.T

        return scores

    def _others(self, users: IntVector, random: np.random.Generator) -> IntVector:
        """A random negative for each user, int64 [B]; after 100 tries any item, e.g. for a user who had all of them."""
        others = random.integers(0, self._catalogue, len(users))
        for _ in range(100):
            pairs = users * self._catalogue + others
            at = np.minimum(np.searchsorted(self._pairs, pairs), len(self._pairs) - 1)
            known = np.flatnonzero(self._pairs[at] == pairs)
            if not len(known):
                break
            others[known] = random.integers(0, self._catalogue, len(known))
        return others
