"""The start of a training: a new network and its task, the fingerprint of the training, and the seed of each step.

Knows nothing of devices, optimisers or files.

Symbols: M items of all domains, D width of an embedding.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import T5ForConditionalGeneration

from training.networks.known_ids import KnownIds
from training.networks.semantic_t5 import SemanticT5
from training.networks.t5 import build_t5
from training.networks.word_vectors import share_words
from training.recommender.content_start import start_from_content
from training.recommender.corpus import Corpus
from training.recommender.likeness import likeness_rows
from training.recommender.parameters import RecommenderParameters
from training.recommender.tasks import NextItems, NextTokens, Task
from training.recommender.taught import Taught
from training.recommender.words import ItemWords


@dataclass(frozen=True)
class Beginning:
    """An untrained network, on the CPU, and its task."""

    network: T5ForConditionalGeneration
    task: Task


def begin(
    corpus: Corpus,
    parameters: RecommenderParameters,
    embeddings: NDArray[np.float32] | None,
    taught: Taught | None = None,
    *,
    words: ItemWords | None = None,
) -> Beginning:
    """Build the network, initialised with the seed of the parameters.

    Parameters
    ----------
    embeddings : float32 [M, D] of the corpus' items, from which token vectors start and likeness is computed; None:
        token vectors start at random, and there is no likeness
    taught : expectations of the teachers, for a network that reads items
    words : of the corpus' items; a network that reads items also learns their vectors by these
    """
    torch.manual_seed(parameters.seed)
    tokens = torch.from_numpy(corpus.layout.tokens(corpus.values).astype(np.int64))
    known = KnownIds.of(corpus.layout, tokens) if parameters.network.history == "items" else None
    network = build_t5(corpus.layout, parameters.network, None if known is None else known.sizes)
    task: Task
    if isinstance(network, SemanticT5) and known is not None:
        network.know(known)
        task = NextItems(corpus, parameters, network, taught)
    else:
        task = NextTokens(corpus, parameters)
    if embeddings is not None and parameters.content_start:
        start_from_content(network, corpus.layout, tokens, embeddings, parameters.content_start)
    if embeddings is not None and isinstance(network, SemanticT5) and parameters.network.likeness:
        network.item_likeness.copy_(likeness_rows(corpus.layout, tokens, embeddings, network.model_dim))
    if words is not None and isinstance(network, SemanticT5):
        rows = network.encoder.known_rows(network.hash_parts[tokens].sum(dim=1))
        for table in (network.encoder.reader_own, network.item_own):
            share_words(table, words.of_rows(rows, table.num_embeddings))
    return Beginning(network, task)


def fingerprint(
    corpus: Corpus,
    parameters: RecommenderParameters,
    embeddings: NDArray[np.float32] | None,
    devices: int,
    taught: Taught | None = None,
    *,
    words: ItemWords | None = None,
) -> str:
    """SHA-256 of everything that determines a training, so that it never resumes from another training's checkpoint."""
    # These may differ between the starts of one training: its time limit, how often it is saved, its threads.
    settings = parameters.model_dump(exclude={"minutes", "checkpoint_seconds", "threads"})
    content = None if embeddings is None else hashlib.sha256(np.ascontiguousarray(embeddings).data).hexdigest()
    known = [corpus.fingerprint(), content, taught and taught.digest, words and words.digest]
    described = json.dumps([settings, devices, *known], sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()


def step_seed(seed: int, process: int, step: int) -> int:
    """Random seed of one step on one device, different for every seed, device and step."""
    # Modulo the greatest prime that torch accepts: from a seed of 4096 on, the number needs more than 64 bits.
    return (((seed << 20) + process << 32) + step) % (2**64 - 59)
