"""A recommender with random weights in TIGER's size, requests for it, and how many multiply-adds a request takes.

Knows nothing of what is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import T5Config, T5ForConditionalGeneration

from benchmarks.catalogues import LAYOUT, random_items
from service.bundle.manifest import RecommenderPart
from service.engine.recommender import BeamResult, Recommender
from service.engine.sessions import Runtime
from service.index.trie import TrieArrays
from service.semantic_ids import IntArray
from training.graphs.recommender import export_recommender
from training.networks.item_encoder import HEAD_SCALE
from training.networks.known_ids import KnownIds
from training.networks.semantic_t5 import SemanticT5
from training.networks.t5 import T5Settings, build_t5

HEAD = 0.97
"""Share of the head over items in scores in which the decoder has a word as well."""
HISTORY = 100
"""Tokens of a history: 20 items."""
PART = RecommenderPart(name="all", model="recommender.onnx", domains=[], domain_tokens=[], max_history=20)


@dataclass(frozen=True)
class Histories:
    """Requests: `tokens` and `mask` int64 [B, HISTORY]."""

    tokens: NDArray[np.int64]
    mask: NDArray[np.int64]


def random_model() -> T5ForConditionalGeneration:
    """The network, the same at every call."""
    torch.manual_seed(0)
    return build_t5(LAYOUT, T5Settings()).eval()


def random_model_of_items(items: IntArray, head: float = HEAD) -> SemanticT5:
    """A network of the same size that reads and scores items, and knows these: int32 [n, depth] tokens; `head` is the
    share of the head in the scores, 1 for all."""
    torch.manual_seed(0)
    tokens = torch.from_numpy(items.astype(np.int64))
    known = KnownIds.of(LAYOUT, tokens)
    model = build_t5(LAYOUT, T5Settings(history="items", item_head=head), known.sizes).eval()
    assert isinstance(model, SemanticT5)
    model.know(known)
    for own in (model.encoder.reader_own, model.item_own):
        torch.nn.init.normal_(own.weight[1:], std=HEAD_SCALE)
    model.look_ahead(tokens, torch.ones(len(tokens)))
    return model


def reading(reads: str, head: float) -> str:
    """What the name of a row says of a recommender."""
    return f", reading {reads}" + (", the head alone" if head == 1 and reads == "items" else "")


def opened(path: Path, runtime: Runtime) -> Recommender:
    """The engine that serves, on a graph of this size."""
    return Recommender.open(path, PART, LAYOUT, runtime)


def exported(model: T5ForConditionalGeneration, folder: Path) -> Path:
    """The network as a graph in a file."""
    path = folder / PART.model
    export_recommender(model, LAYOUT, path)
    return path


def random_histories(batch: int, random: np.random.Generator) -> Histories:
    """Random items, without suffixes and padding."""
    items = random_items(batch * HISTORY // (LAYOUT.depth - 1), random)
    tokens = items[:, :-1].reshape(batch, HISTORY).astype(np.int64)
    return Histories(tokens, np.ones_like(tokens))


def searching(
    recommender: Recommender, asked: Histories, index: TrieArrays, beams: int, blocked: IntArray | None = None
) -> Callable[[], BeamResult]:
    """A call that searches the one root for all requests; `blocked` int32 [X] are the edges none of them may take."""
    batch = len(asked.tokens)
    edges = np.zeros((batch, 0), np.int32) if blocked is None else np.tile(blocked, (batch, 1))
    roots = np.tile(index.roots[:1], (batch, 1))
    return partial(recommender.search, asked.tokens, asked.mask, index, roots, edges, beams)


def multiply_adds(config: T5Config, beams: int, positions: int = HISTORY) -> int:
    """What one request takes, counted over the matrix products alone, with a look-up in place of the first layers'.

    The decoder takes one state at the first position and one a beam at each that follows; the encoder reads
    `positions`. What a head over items takes is left out: a hundredth.
    """
    inner, width = config.num_heads * config.d_kv, config.d_model
    forward = (3 if config.feed_forward_proj == "gated-gelu" else 2) * width * config.d_ff
    layers, decoder_layers, projection = config.num_layers, config.num_decoder_layers, width * inner
    encoder = layers * (4 * projection + 2 * positions * inner + forward) - 3 * projection
    shared = decoder_layers * 2 * projection
    state = decoder_layers * (6 * projection + 2 * positions * inner + forward) - 3 * projection
    states = 1 + (LAYOUT.depth - 1) * beams
    total: int = positions * (encoder + shared) + states * (state + width * LAYOUT.vocabulary)
    return total
