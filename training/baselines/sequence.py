"""SASRec, BERT4Rec and GRU4Rec as baselines: windows of histories, a network, a task.

The loss is the cross-entropy over all items of the domain. Knows nothing of optimisers or files.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.baselines.corpus import Corpus
from training.baselines.parameters import (
    BERT4RecParameters,
    GRU4RecParameters,
    SASRecParameters,
)
from training.baselines.scoring import Scorer
from training.baselines.tasks import Cloze, NextItem, Task
from training.data.split import padded, windows
from training.learning.batches import epoch_batches
from training.networks.full_softmax import full_softmax_loss
from training.networks.sequence_gru import SequenceGRU
from training.networks.sequence_transformer import SequenceTransformer

AnySequence = SASRecParameters | BERT4RecParameters | GRU4RecParameters


class SequenceBaseline:
    """A network over sequences; a `Trainable` of `training.baselines.trainer`.

    Parameters
    ----------
    corpus, parameters : the data, and how to learn from it
    device : of the network
    """

    def __init__(self, corpus: Corpus, parameters: AnySequence, device: torch.device) -> None:
        self.parameters, self.device = parameters, device
        self.network = build_network(corpus.items, parameters).to(device)
        self._task: Task = NextItem()
        if isinstance(parameters, BERT4RecParameters):
            self._task = Cloze(parameters.mask_share, parameters.last_share)
        cut = windows(corpus.training, parameters.max_history)
        self._lengths = cut.stops - cut.starts
        self._windows = padded(corpus.history_items, cut.starts, cut.stops, parameters.max_history + 1)

    def batches(self, random: np.random.Generator) -> list[NDArray[np.int64]]:
        """Batches of an epoch's windows, of similar length within a batch."""
        rows = np.arange(len(self._lengths))
        return epoch_batches(self._lengths, rows, random, extra=0, budget=self.parameters.batch_tokens, devices=1)

    def loss(self, batch: NDArray[np.int64], random: np.random.Generator) -> Tensor:
        """Mean over the predicted positions of the windows in `batch`."""
        rows = self._windows[batch, : int(self._lengths[batch].max())]
        question = self._task.question(rows, random)
        hidden = self.network(self._tensor(question.inputs))[self._tensor(question.asked)]
        return full_softmax_loss(hidden, self.network.items.table, self._tensor(question.answers))

    def scorer(self) -> Scorer:
        """A scorer with the present weights."""
        self.network.eval()

        def scores(users: NDArray[np.int64], histories: NDArray[np.int32]) -> Tensor:
            del users
            query = self._task.query(histories)
            hidden = self.network(self._tensor(query.inputs))
            answers: Tensor = hidden[torch.arange(len(hidden), device=self.device), self._tensor(query.at)]
            return answers @ self.network.items.table.T

        return scores

    def _tensor(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self.device)


def build_network(items: int, parameters: AnySequence) -> SequenceTransformer | SequenceGRU:
    """A freshly initialised network for `items` items."""
    if isinstance(parameters, GRU4RecParameters):
        return SequenceGRU(items, width=parameters.width, layers=parameters.layers, dropout=parameters.dropout)
    causal = isinstance(parameters, SASRecParameters)
    return SequenceTransformer(
        items,
        parameters.max_history + (0 if causal else 1),
        width=parameters.width,
        layers=parameters.layers,
        heads=parameters.heads,
        dropout=parameters.dropout,
        causal=causal,
    )
