"""Training objectives of a recommender: the target of each example, or every next item of a window.

Knows nothing of optimisers or files.

Symbols: B batch, n positions of the longest window (in losses: targets of a batch), A items that the decoder writes, C
candidates.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from service.errors import ConfigError
from service.semantic_ids import PAD_TOKEN
from training.networks.full_softmax import full_softmax_loss
from training.networks.semantic_t5 import SemanticT5
from training.recommender.batches import collate
from training.recommender.corpus import Corpus, ExampleSet, IntVector
from training.recommender.parameters import RecommenderParameters
from training.recommender.taught import Places, Taught


class Task(Protocol):
    """An objective: its examples and its loss.

    Attributes
    ----------
    examples : all training examples
    lengths : int64 [examples], encoder positions of each
    extra : decoder positions of each example
    groups : int64 [examples], group of each; a batch holds a single group. None: no groups
    """

    examples: ExampleSet
    lengths: IntVector
    extra: int
    groups: IntVector | None

    def weight(self, rows: IntVector) -> float:
        """Weight of a batch: its number of targets."""

    def loss(self, model: nn.Module, rows: IntVector, device: torch.device) -> Tensor:
        """Loss of a batch, a scalar; `model` is the network, or its wrapper on several devices."""

    def settle(self) -> None:
        """Update the tables that the network derives from its weights; call it before a search."""


class NextTokens:
    """Predict the tokens of an example's target, by cross-entropy."""

    def __init__(self, corpus: Corpus, parameters: RecommenderParameters) -> None:
        self._corpus, self._parameters = corpus, parameters
        self.examples = corpus.training
        self.lengths = corpus.sequence_lengths(corpus.training)
        self.extra = corpus.layout.depth
        self.groups: IntVector | None = None

    def weight(self, rows: IntVector) -> float:
        """One target per example."""
        return float(len(rows))

    def loss(self, model: nn.Module, rows: IntVector, device: torch.device) -> Tensor:
        """Mean over the tokens of the targets."""
        batch = collate(self._corpus, self.examples.take(rows), self._parameters.max_history)
        targets = torch.from_numpy(batch.targets).to(device)
        found = model(
            input_ids=torch.from_numpy(batch.history).to(device),
            attention_mask=torch.from_numpy(batch.mask).to(device),
            decoder_input_ids=F.pad(targets[:, :-1], (1, 0), value=PAD_TOKEN),
            use_cache=False,
        )
        return token_loss(found.logits, targets, self._parameters)

    def settle(self) -> None:
        """Does nothing: no tables are derived."""


@dataclass(frozen=True)
class _New:
    """Items of a batch that are treated as new, bool.

    `windows`, [B], are the windows with new items. In these, the input items where `read`, [B, n], and the candidates
    where `scored`, [C], are new.
    """

    windows: Tensor
    read: Tensor
    scored: Tensor


class NextItems:
    """Predict every item of a window but the first from the encoder's state at the item before, by cross-entropy over
    items of its domain; and decode the tokens of some of these targets, drawn anew each time.

    Parameters
    ----------
    network : knows the IDs of the corpus
    taught : expectations of the teachers at the targets, which are added to the objective; None: the targets alone

    Raises
    ------
    ConfigError : the teachers may expect items that are not among the candidates
    """

    def __init__(
        self, corpus: Corpus, parameters: RecommenderParameters, network: SemanticT5, taught: Taught | None = None
    ) -> None:
        self._corpus, self._parameters, self._network, self._taught = corpus, parameters, network, taught
        require_all_items(corpus, parameters, () if taught is None else taught.domains)
        self._tokens = torch.from_numpy(corpus.layout.tokens(corpus.values).astype(np.int64))
        self._lead = 1 if corpus.layout.domains else 0
        self.examples = corpus.windows
        self.lengths = self.examples.stop - self.examples.start
        self.extra = corpus.layout.depth * parameters.decoded_per_window
        self.groups: IntVector | None = self.examples.domain

        met = np.ones(len(corpus.values), dtype=np.float32)
        ends = np.zeros(len(corpus.history_items) + 1, dtype=np.int64)
        np.add.at(ends, self.examples.start, 1)
        np.add.at(ends, self.examples.stop + 1, -1)
        is_training = np.cumsum(ends[:-1]) > 0
        met += np.bincount(corpus.history_items[is_training], minlength=len(met))
        self._popularity = torch.from_numpy(met.astype(np.float32))

    def weight(self, rows: IntVector) -> float:
        """Every item of a window but the first is a target."""
        return float(self.lengths[rows].sum())

    def loss(self, model: nn.Module, rows: IntVector, device: torch.device) -> Tensor:
        """Mean loss over the written tokens, plus `item_loss` times the mean loss over the target items."""
        parameters, examples = self._parameters, self.examples.take(rows)
        batch = collate(self._corpus, examples, parameters.max_history)
        lengths, asked = torch.from_numpy(self.lengths[rows]), Places.of(examples)
        owners, places = asked.owners, asked.places
        targets = torch.from_numpy(self._corpus.history_items)[asked.at]
        candidates = self._candidates(targets, int(examples.domain[0]))
        chosen = self._chosen(lengths)
        new = self._drawn_as_new(lengths, len(candidates))
        tokens = self._tokens[targets[chosen]].to(device)
        found: Any = model(
            input_ids=torch.from_numpy(batch.history).to(device),
            attention_mask=torch.from_numpy(batch.mask).to(device),
            decoder_input_ids=F.pad(tokens[:, :-1], (1, 0), value=PAD_TOKEN),
            use_cache=False,
            rows=owners[chosen].to(device),
            seen=(places[chosen] + 1 + self._lead).to(device),
            items=self._tokens[candidates].to(device),
            known=None if new is None else ~new.scored.to(device),
            read_as_known=None if new is None else ~new.read.to(device),
        )
        states = found.encoder_last_hidden_state[owners.to(device), (places + self._lead).to(device)].float()
        answers = torch.searchsorted(candidates, targets).to(device)
        domain = int(examples.domain[0])
        if new is None:
            items = self._scored(states, found.item_vectors[0].float(), answers, asked.at, domain)
        else:
            items, scored_new = states.new_zeros(()), new.windows[owners]
            for vectors, which in zip(found.item_vectors.float(), (~scored_new, scored_new), strict=True):
                if which.any():
                    there = which.to(device)
                    own = self._scored(states[there], vectors, answers[there], asked.at[which], domain)
                    items += own * which.float().mean()
        return token_loss(found.logits, tokens, parameters) + parameters.item_loss * items

    def _scored(self, states: Tensor, vectors: Tensor, answers: Tensor, at: Tensor, domain: int) -> Tensor:
        """Mean cross-entropy over items, with the observed item and, weighted by `teaching`, the teachers' expectation.

        Parameters
        ----------
        states, vectors, answers : float32 [n, M], [C, M], int64 [n]; in a taught domain all items are candidates
        at : int64 [n], see `Places`
        """
        loss = full_softmax_loss(states, vectors, answers)
        if self._taught is None or domain not in self._taught.domains:
            return loss
        first = int(self._corpus.item_starts[domain])
        return loss + self._parameters.teaching * self._taught.loss(states, vectors, answers, at, first)

    def settle(self) -> None:
        """Update the network's expectations for prefixes of IDs."""
        device = self._network.device
        self._network.look_ahead(self._tokens.to(device), self._popularity.to(device))

    def _chosen(self, lengths: Tensor) -> Tensor:
        """Random targets whose tokens are written, as places among all targets: int64 [A], `decoded_per_window` per
        window."""
        count = self._parameters.decoded_per_window
        drawn = (torch.rand(count, len(lengths)) * lengths).long().clamp(max=lengths - 1)
        chosen: Tensor = (lengths.cumsum(0) - lengths + drawn).flatten()
        return chosen

    def _drawn_as_new(self, lengths: Tensor, candidates: int) -> _New | None:
        """Draw the items to treat as new, for windows of these lengths; None, without drawing, for no new windows."""
        share, chance = self._parameters.new_windows, self._parameters.new_items
        if share == 0:
            return None
        size = (len(lengths), int(lengths.max()) + self._lead)
        windows = torch.rand(size[0]) < share
        return _New(windows, windows[:, None] & (torch.rand(size) < chance), torch.rand(candidates) < chance)

    def _candidates(self, targets: Tensor, domain: int) -> Tensor:
        """Candidates of the softmax, items of a domain: int64 [C], ascending, the targets included."""
        first, end = (int(each) for each in self._corpus.item_starts[domain : domain + 2])
        if end - first <= self._parameters.item_negatives:
            return torch.arange(first, end)
        drawn = torch.randint(first, end, (self._parameters.item_negatives,))
        candidates: Tensor = torch.unique(torch.cat([targets, drawn]))
        return candidates


def require_all_items(corpus: Corpus, parameters: RecommenderParameters, domains: Iterable[int]) -> None:
    """Refuse taught domains, by number, in which not all items are candidates.

    Raises
    ------
    ConfigError : the teachers may expect items that are not among the candidates
    """
    for domain in sorted(domains):
        items = int(np.diff(corpus.item_starts)[domain])
        if items > parameters.item_negatives:
            raise ConfigError(
                f"item_negatives is {parameters.item_negatives}, but {corpus.domains[domain]} has {items} items, "
                "and what teachers expect may be any of them; raise it to as many, or leave the teachers out"
            )


def token_loss(logits: Tensor, targets: Tensor, parameters: RecommenderParameters) -> Tensor:
    """Mean cross-entropy of tokens: logits [A, depth, V], targets int64 [A, depth]."""
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), label_smoothing=parameters.label_smoothing)
