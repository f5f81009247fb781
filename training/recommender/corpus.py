"""Histories of several domains as semantic IDs, and the examples cut from them, in flat arrays.

An example is a slice of one long array of items: the history, followed by its target. Knows nothing of networks or
batches.

Symbols: M items of all domains, I interactions of all domains, n examples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from service.engine.history_tokens import item_token_counts
from service.errors import ConfigError, InvalidInput
from service.index.trie import CodeTrie
from service.semantic_ids import IntArray, TokenLayout
from training.data.dataset import DomainData
from training.data.split import Examples, Stretches, leave_one_out, require_examples, training_stretches, windows
from training.ids.table import DomainIds

IntVector = NDArray[np.int64]


@dataclass(frozen=True)
class ExampleSet:
    """n examples; the history is `history_items[start : stop]` and the target `history_items[stop]`.

    Attributes
    ----------
    domain : int64 [n], position in `Corpus.domains`
    user : int64 [n], number of the user, over all domains
    start, stop : int64 [n]
    """

    domain: IntVector
    user: IntVector
    start: IntVector
    stop: IntVector

    def __len__(self) -> int:
        return len(self.stop)

    def take(self, rows: IntVector) -> ExampleSet:
        """Some of the examples, in the order of `rows`."""
        return ExampleSet(self.domain[rows], self.user[rows], self.start[rows], self.stop[rows])


@dataclass(frozen=True)
class Corpus:
    """All training data of a recommender.

    Attributes
    ----------
    layout : the tokens; `layout.domains` is empty without domain tokens
    domains : names
    item_starts : int64 [domains + 1]; domain g owns the items `item_starts[g]` to `item_starts[g + 1] - 1`
    values : int32 [M, L + N + 1], semantic IDs
    history_items : int64 [I], item numbers (over all domains) of all histories
    training, validation : examples
    windows : slices of the training part; every item of a window but its first is a target, in this window alone. The
        last item is `history_items[stop]`
    """

    layout: TokenLayout
    domains: tuple[str, ...]
    item_starts: IntVector
    values: IntArray
    history_items: IntVector
    training: ExampleSet
    validation: ExampleSet
    windows: ExampleSet

    def sequence_lengths(self, examples: ExampleSet) -> IntVector:
        """Tokens of each example's history, int64 [n]."""
        written = item_token_counts(self.values)[self.history_items]
        before = np.concatenate([[0], np.cumsum(written)])
        lengths: IntVector = before[examples.stop] - before[examples.start] + (1 if self.layout.domains else 0)
        return lengths

    def trie(self) -> CodeTrie:
        """Constraint index of all items: root g is domain g, a leaf is the number of an item."""
        item_domains = np.repeat(np.arange(len(self.domains)), np.diff(self.item_starts))
        return CodeTrie.from_tokens(
            self.layout.tokens(self.values),
            item_domains.astype(np.int32),
            np.arange(len(self.values), dtype=np.int32),
            len(self.domains),
        )

    def fingerprint(self) -> str:
        """SHA-256 of layout, IDs, histories, and the ends of the training and validation examples."""
        digest = hashlib.sha256(repr((self.layout, self.domains)).encode())
        for array in (self.item_starts, self.values, self.history_items, self.training.stop, self.validation.stop):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def item_values(ids: DomainIds, domain: DomainData, layout: TokenLayout) -> IntArray:
    """Semantic IDs of a domain's items in the order of its catalogue: int32 [items, L + N + 1].

    Raises
    ------
    ConfigError : an item has no ID
    InvalidInput : an ID does not fit the layout
    """
    row_of = {item_id: row for row, item_id in enumerate(ids.item_ids)}
    missing = next((item_id for item_id in domain.item_ids if item_id not in row_of), None)
    if missing is not None:
        raise ConfigError(
            f"{domain.name}: item {missing!r} has no semantic ID; the IDs were given to another dataset's items"
        )
    rows = np.asarray([row_of[item_id] for item_id in domain.item_ids], dtype=np.int64)
    shape = ids.codes.shape[1], ids.experts.shape[1]
    if shape != (layout.levels, layout.experts_per_item):
        raise InvalidInput(
            f"{domain.name}: IDs have {shape[0]} codes and {shape[1]} experts, but the layout says "
            f"{layout.levels} and {layout.experts_per_item}"
        )
    values = layout.join(ids.codes[rows], ids.experts[rows], ids.suffix[rows])
    layout.pack(values)  # raises InvalidInput for values out of range
    return values


def learned_from(ids: DomainIds, domain: DomainData, layout: TokenLayout) -> str:
    """SHA-256 of what a recommender learns from in a domain: histories, and the IDs of the catalogue's items.

    Independent of the order in which it reads tokens. Raises the errors of `item_values`.
    """
    values = item_values(ids, domain, replace(layout, domains=(), expert_first=False))
    digest = hashlib.sha256(domain.name.encode())
    for array in (values, domain.history_items, domain.history_starts):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def build_corpus(
    domains: Iterable[DomainData], values: Mapping[str, IntArray], layout: TokenLayout, max_history: int
) -> Corpus:
    """Concatenate the domains.

    Parameters
    ----------
    values : by domain, int32 [items, L + N + 1]; see `item_values`
    max_history : greatest number of history items of an example; a window has one more item

    Raises
    ------
    ConfigError : there is no domain, or no user whose history is long enough for training and validation
    """
    names: list[str] = []
    item_starts, interactions, users = [0], 0, 0
    histories: list[IntVector] = []
    training: list[ExampleSet] = []
    validation: list[ExampleSet] = []
    cut: list[ExampleSet] = []
    for number, domain in enumerate(domains):
        split = leave_one_out(domain.history_items, domain.history_starts, max_history)
        stretches = windows(training_stretches(domain.history_starts), max_history)

        def shifted(
            part: Examples | Stretches, ends: int = 0, number: int = number, at: int = interactions, first: int = users
        ) -> ExampleSet:
            of_domain = np.full(len(part.users), number, dtype=np.int64)
            return ExampleSet(of_domain, part.users + first, part.starts + at, part.stops + at + ends)

        names.append(domain.name)
        histories.append(domain.history_items.astype(np.int64) + item_starts[-1])
        training.append(shifted(split.training))
        validation.append(shifted(split.validation))
        cut.append(shifted(stretches, ends=-1))
        item_starts.append(item_starts[-1] + len(domain.items))
        interactions += len(domain.history_items)
        users += domain.users
    if not names:
        raise ConfigError("no domain to train on")
    corpus = Corpus(
        layout,
        tuple(names),
        np.asarray(item_starts, dtype=np.int64),
        np.concatenate([values[name] for name in names]),
        np.concatenate(histories),
        _joined(training),
        _joined(validation),
        _joined(cut),
    )
    require_examples(", ".join(names), len(corpus.training), len(corpus.validation))
    return corpus


def _joined(parts: list[ExampleSet]) -> ExampleSet:
    return ExampleSet(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("domain", "user", "start", "stop"))
    )
