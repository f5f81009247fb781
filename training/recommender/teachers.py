"""Open trained recommenders and sequence baselines as teachers.

Symbols: B windows, S items of the longest, n targets, C items of a domain, d width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from service.errors import ConfigError
from training.baselines.corpus import Corpus as BaselineCorpus
from training.baselines.parameters import GRU4RecParameters, SASRecParameters
from training.baselines.sequence import build_network
from training.configuration import checked
from training.data.dataset import Dataset
from training.data.split import padded
from training.ids.table import DomainIds
from training.networks.semantic_t5 import SemanticT5
from training.networks.t5 import WEIGHTS, load_recommender
from training.recommender.batches import collate
from training.recommender.corpus import Corpus, ExampleSet, item_values, learned_from
from training.recommender.taught import Places, Teacher
from training.stage import read_figures

SEQUENCES: Mapping[str, type[SASRecParameters | GRU4RecParameters]] = {
    "sasrec": SASRecParameters,
    "gru4rec": GRU4RecParameters,
}
"""Baselines that predict the next item at every place of a history, by `kind`."""


@dataclass(frozen=True)
class Lesson:
    """The data that teachers are asked about, and their device.

    Attributes
    ----------
    corpus, dataset : windows of histories, and the data of their domains
    ids : IDs by the tokenizer of the corpus, by domain
    max_history : items of the longest window, without its last
    device : the device of the teachers
    """

    corpus: Corpus
    dataset: Dataset
    ids: Mapping[str, DomainIds]
    max_history: int
    device: torch.device


def open_teachers(folders: Sequence[Path], lesson: Lesson) -> list[Teacher]:
    """Open outputs of `train-recommender` and `train-baseline` as teachers.

    Raises
    ------
    ConfigError : a folder is not finished, or holds no teacher or one that reads too short histories, was trained on
        other histories or IDs, did not record on which, or knows none of the domains; a baseline's weights cannot be
        read; or two teachers are the same
    ModelError : a recommender's weights are damaged
    """
    opened: list[Teacher] = []
    for folder in folders:
        figures = read_figures(folder)
        if figures.get("stage") == "train-recommender":
            opened.append(_recommender(folder, figures, lesson))
        elif figures.get("kind") in SEQUENCES:
            opened.append(_sequence(folder, figures, lesson))
        else:
            what = figures.get("kind") or figures.get("stage")
            raise ConfigError(
                f"teacher {folder}: is {what}; what can teach is a folder of `unitok train-recommender` with "
                f'history = "items", or of `unitok train-baseline` of kind {" or ".join(SEQUENCES)}'
            )
    twice = sorted({each.name for each in opened if [other.digest for other in opened].count(each.digest) > 1})
    if twice:
        raise ConfigError(f"teachers {' and '.join(twice)}: learned the same, and would count twice; name one, once")
    for each in opened:
        if not set(each.domains) & set(lesson.corpus.domains):
            raise ConfigError(
                f"teacher {each.name}: learned from {', '.join(each.domains)}, and so has nothing to say of "
                f"{', '.join(lesson.corpus.domains)}"
            )
    return opened


def _require_length(folder: Path, reads: int, asked: int) -> None:
    if reads < asked:
        raise ConfigError(f"teacher {folder}: reads {reads} items of a history, but is asked about {asked}")


def _unsaid(folder: Path, domain: str) -> ConfigError:
    """Error for a folder written before `learned_from` was recorded."""
    return ConfigError(f"teacher {folder}: does not say which histories of {domain} it learned from; train it again")


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()


@dataclass(frozen=True)
class _Recommender:
    """A recommender with a head over items. `corpus` is in the recommender's own layout; `vectors`, float32 [C, d], are
    the head's, by domain number."""

    name: str
    domains: tuple[str, ...]
    digest: str
    model: SemanticT5
    vectors: Mapping[int, Tensor]
    corpus: Corpus
    max_history: int

    def scores(self, domain: int, windows: ExampleSet, asked: Places) -> Tensor:
        device = self.model.device
        batch = collate(self.corpus, windows, self.max_history)
        read, mask = torch.from_numpy(batch.history).to(device), torch.from_numpy(batch.mask).to(device)
        states = self.model.encoder(read, mask).last_hidden_state[asked.owners.to(device), asked.places.to(device)]
        scores: Tensor = states.float() @ self.vectors[domain][:, : states.shape[1]].T
        return scores


def _recommender(folder: Path, figures: Mapping[str, Any], lesson: Lesson) -> Teacher:
    trained = load_recommender(folder)
    if not isinstance(trained.model, SemanticT5):
        raise ConfigError(f'teacher {folder}: scores no items; only one with history = "items" can teach')
    if trained.layout.domains:
        raise ConfigError(f"teacher {folder}: reads a token of the domain first, with which it cannot teach")
    _require_length(folder, trained.max_history, lesson.max_history)
    corpus = lesson.corpus
    plain = replace(corpus.layout, domains=(), expert_first=trained.layout.expert_first)
    strange = ConfigError(f"teacher {folder}: learned other IDs than this tokenizer gave; train it on these")
    if trained.layout != plain:
        raise strange
    values = [item_values(lesson.ids[name], lesson.dataset[name], plain) for name in corpus.domains]
    own, vectors = replace(corpus, layout=plain, values=np.concatenate(values)), {}
    model = trained.model.to(lesson.device)
    for number, name in enumerate(corpus.domains):
        if name not in trained.trained_on:
            continue
        tokens = torch.from_numpy(plain.tokens(values[number]).astype(np.int64)).to(lesson.device)
        if not bool((model.encoder.known_rows(model.hash_parts[tokens].sum(dim=-1)) > 0).all()):
            raise strange
        # Equal IDs do not imply equal histories, and a teacher must have been trained on the histories given here.
        said = figures.get("learned_from", {}).get(name)
        if said is None:
            raise _unsaid(folder, name)
        if said != learned_from(lesson.ids[name], lesson.dataset[name], plain):
            raise ConfigError(f"teacher {folder}: learned from other histories or IDs of {name} than are given here")
        with torch.no_grad():
            vectors[number] = model.item_vectors(tokens).float()
    return _Recommender(str(folder), trained.trained_on, _digest(folder), model, vectors, own, trained.max_history)


@dataclass(frozen=True)
class _Sequence:
    """A causal network over item numbers; `numbers`, int32 [T], are the corpus' histories, numbered within its
    domain."""

    name: str
    domains: tuple[str, ...]
    digest: str
    network: nn.Module
    numbers: NDArray[np.int32]
    device: torch.device

    def scores(self, domain: int, windows: ExampleSet, asked: Places) -> Tensor:
        del domain
        longest = int((windows.stop - windows.start).max())
        read = torch.from_numpy(padded(self.numbers, windows.start, windows.stop, longest).astype(np.int64))
        states = self.network(read.to(self.device))[asked.owners.to(self.device), asked.places.to(self.device)]
        table: Tensor = self.network.items.table  # type: ignore[union-attr, assignment]
        scores: Tensor = states @ table.T
        return scores


def _sequence(folder: Path, figures: Mapping[str, Any], lesson: Lesson) -> Teacher:
    domain, corpus = figures["domain"], lesson.corpus
    parameters = checked(SEQUENCES[figures["kind"]], figures["configuration"], str(folder))
    _require_length(folder, parameters.max_history, lesson.max_history)
    first = 0
    if domain in corpus.domains:
        first = int(corpus.item_starts[corpus.domains.index(domain)])
        own = BaselineCorpus.of(lesson.dataset[domain], parameters.max_history)
        # It knows items only by number, so with other histories or another order these would be other items.
        if "learned_from" not in figures:
            raise _unsaid(folder, domain)
        if figures["learned_from"] != own.fingerprint():
            raise ConfigError(f"teacher {folder}: learned from other histories of {domain} than the dataset has")
    network = build_network(figures["items"], parameters)
    try:
        network.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ConfigError(f"teacher {folder}: its weights cannot be read: {error}; train it again") from None
    numbers = (corpus.history_items - first).astype(np.int32)
    return _Sequence(str(folder), (domain,), _digest(folder), network.eval().to(lesson.device), numbers, lesson.device)
