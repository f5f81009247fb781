"""What a recommender learns from a batch: to write the next item of an example, or of every item of a window too.

Knows nothing of optimisers or files.

Symbols: B batch, n positions of the longest window, A items that the decoder writes, C candidates.
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
from training.teaching.taught import Places, Taught


class Task(Protocol):
    """What to learn from a batch.

    Attributes
    ----------
    examples : what there is to draw from
    lengths : int64 [n], positions of the encoder that each takes
    extra : positions of the decoder that each takes
    groups : int64 [n], a batch holds examples of one; None: of any
    """

    examples: ExampleSet
    lengths: IntVector
    extra: int
    groups: IntVector | None

    def weight(self, rows: IntVector) -> float:
        """What a batch counts for: how many targets it has."""

    def loss(self, model: nn.Module, rows: IntVector, device: torch.device) -> Tensor:
        """What to descend, a scalar; `model` is the network, or what wraps it on several devices."""

    def settle(self) -> None:
        """Bring what a network derives from its weights up to date, before it searches."""


class NextTokens:
    """The tokens of an example's target, by cross-entropy."""

    def __init__(self, corpus: Corpus, parameters: RecommenderParameters) -> None:
        self._corpus, self._parameters = corpus, parameters
        self.examples = corpus.training
        self.lengths = corpus.sequence_lengths(corpus.training)
        self.extra = corpus.layout.depth
        self.groups: IntVector | None = None

    def weight(self, rows: IntVector) -> float:
        """One target an example."""
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
        """Nothing is derived."""


@dataclass(frozen=True)
class _New:
    """What a batch takes for new, bool: `windows` [B] whose targets are told from items of which those where `judged`,
    [C], are; and `read`, [B, n], items of the former."""

    windows: Tensor
    read: Tensor
    judged: Tensor


class NextItems:
    """Every item of a window but the first, by cross-entropy over the items of its domain, from the encoder's state at
    the item before; and the tokens of some of them, drawn anew each time.

    Parameters
    ----------
    network : knows the IDs of the corpus
    taught : what teachers expect in the places of the targets, which then counts beside them; None: the targets alone

    Raises
    ------
    ConfigError : what teachers expect may lie beyond the items that a target is told from
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
        """As many targets as items but the first."""
        return float(self.lengths[rows].sum())

    def loss(self, model: nn.Module, rows: IntVector, device: torch.device) -> Tensor:
        """Mean over the tokens that are written, and over the items with the weight `item_loss`."""
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
            known=None if new is None else ~new.judged.to(device),
            read_as_known=None if new is None else ~new.read.to(device),
        )
        states = found.encoder_last_hidden_state[owners.to(device), (places + self._lead).to(device)].float()
        answers = torch.searchsorted(candidates, targets).to(device)
        domain = int(examples.domain[0])
        if new is None:
            items = self._judged(states, found.item_vectors[0].float(), answers, asked.at, domain)
        else:
            items, judged_new = states.new_zeros(()), new.windows[owners]
            for vectors, which in zip(found.item_vectors.float(), (~judged_new, judged_new), strict=True):
                if which.any():
                    there = which.to(device)
                    own = self._judged(states[there], vectors, answers[there], asked.at[which], domain)
                    items += own * which.float().mean()
        return token_loss(found.logits, tokens, parameters) + parameters.item_loss * items

    def _judged(self, states: Tensor, vectors: Tensor, answers: Tensor, at: Tensor, domain: int) -> Tensor:
        """Mean cross-entropy over items with what was seen and, to the share `teaching`, with what teachers expect.

        Parameters
        ----------
        states, vectors, answers : float32 [n, M], [C, M], int64 [n]; the candidates are all items where one is taught
        at : int64 [n], as of `Places`
        """
        loss = full_softmax_loss(states, vectors, answers)
        if self._taught is None or domain not in self._taught.domains:
            return loss
        first = int(self._corpus.item_starts[domain])
        return loss + self._parameters.teaching * self._taught.loss(states, vectors, answers, at, first)

    def settle(self) -> None:
        """What lies behind the prefixes of IDs."""
        device = self._network.device
        self._network.look_ahead(self._tokens.to(device), self._popularity.to(device))

    def _chosen(self, lengths: Tensor) -> Tensor:
        """Places, among all targets, of those whose tokens are written: int64 [A], `decoded_per_window` a window."""
        count = self._parameters.decoded_per_window
        drawn = (torch.rand(count, len(lengths)) * lengths).long().clamp(max=lengths - 1)
        chosen: Tensor = (lengths.cumsum(0) - lengths + drawn).flatten()
        return chosen

    def _drawn_as_new(self, lengths: Tensor, candidates: int) -> _New | None:
        """Of windows so long; None, and nothing drawn, where nothing is to be new."""
        share, chance = self._parameters.new_windows, self._parameters.new_items
        if share == 0:
            return None
        size = (len(lengths), int(lengths.max()) + self._lead)
        windows = torch.rand(size[0]) < share
        return _New(windows, windows[:, None] & (torch.rand(size) < chance), torch.rand(candidates) < chance)

    def _candidates(self, targets: Tensor, domain: int) -> Tensor:
        """Items of a domain that the targets are told from: int64 [C], rising, the targets among them."""
        first, end = (int(each) for each in self._corpus.item_starts[domain : domain + 2])
        if end - first <= self._parameters.item_negatives:
            return torch.arange(first, end)
        drawn = torch.randint(first, end, (self._parameters.item_negatives,))
        candidates: Tensor = torch.unique(torch.cat([targets, drawn]))
        return candidates


def require_all_items(corpus: Corpus, parameters: RecommenderParameters, domains: Iterable[int]) -> None:
    """Refuse domains, by number, that are taught and whose targets are not told from all of their items.

    Raises
    ------
    ConfigError : what teachers expect may lie beyond the items that a target is told from
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
