"""Search for validation users during training: with the served graph on a CPU, with torch on a GPU.

Both rank the same (tests compare them). On a CPU the graph takes a tenth of torch's time, and validation with torch
would take longer than training; on a GPU the network is there already. A head that scores alone scores all items
instead of searching, which takes another tenth of that time. Knows nothing of users and figures.

Symbols: B batch, S sequence, W beams.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import T5ForConditionalGeneration

from service.bundle.manifest import RecommenderPart
from service.engine.recommender import Recommender
from service.engine.sessions import Runtime
from service.errors import ModelError
from service.index.trie import TrieArrays
from service.semantic_ids import TokenLayout
from training.graphs.recommender import GRAPH, export_recommender
from training.networks.semantic_t5 import SemanticT5
from training.recommender.beam_search import TrieTensors, beam_search
from training.recommender.corpus import Corpus, IntVector

Search: TypeAlias = Callable[[NDArray[np.int64], NDArray[np.int64], IntVector], IntVector]
"""Histories and masks int64 [B, S], and the start node of each request, int64 [B] -> leaves int64 [B, W], best first,
-1 where there is none."""


@contextmanager
def searching(
    model: T5ForConditionalGeneration, layout: TokenLayout, index: TrieArrays, beams: int
) -> Iterator[Search]:
    """A search with the current weights of the network, valid while the context lasts.

    Raises
    ------
    ModelError : from the search, on a CPU: the network returned NaN
    """
    if model.device.type == "cpu":
        with tempfile.TemporaryDirectory() as folder:
            yield by_graph(model, layout, index, beams, Path(folder) / GRAPH)
    else:
        yield by_torch(model, index, beams)


def by_graph(
    model: T5ForConditionalGeneration, layout: TokenLayout, index: TrieArrays, beams: int, path: Path
) -> Search:
    """Search with the served graph, which is exported to `path`."""
    export_recommender(model, layout, path)
    part = RecommenderPart(name="validation", model=path.name, domains=[], domain_tokens=[], max_history=1)
    recommender = Recommender.open(path, part, layout, Runtime("cpu", torch.get_num_threads()))

    def search(history: NDArray[np.int64], mask: NDArray[np.int64], roots: IntVector) -> IntVector:
        starts, none = roots.astype(np.int32)[:, None], np.zeros((len(roots), 0), dtype=np.int32)
        return recommender.search(history, mask, index, starts, none, beams).leaf.astype(np.int64)

    return search


def by_torch(model: T5ForConditionalGeneration, index: TrieArrays, beams: int) -> Search:
    """Search with torch, on the network's device."""
    trie = TrieTensors.of(index, model.device)

    def search(history: NDArray[np.int64], mask: NDArray[np.int64], roots: IntVector) -> IntVector:
        arrays = (torch.from_numpy(array).to(model.device) for array in (history, mask, roots))
        tokens, is_token, starts = arrays
        leaves: IntVector = beam_search(model, tokens, is_token, trie, starts, beams=beams).cpu().numpy()
        return leaves

    return search


def by_head(model: SemanticT5, corpus: Corpus, beams: int) -> Search:
    """Exhaustive scoring of all items of a domain by the head: the result of a beam search that prunes nothing.

    The `roots` of the search are the numbers of the requests' domains.

    Raises
    ------
    ModelError : from the search: the network returned NaN
    """
    tokens = torch.from_numpy(corpus.layout.tokens(corpus.values).astype(np.int64))
    with torch.inference_mode():
        vectors = model.item_vectors(tokens.to(model.device))

    def search(history: NDArray[np.int64], mask: NDArray[np.int64], roots: IntVector) -> IntVector:
        leaves = np.full((len(roots), beams), -1, dtype=np.int64)
        with torch.inference_mode():
            read, there = (torch.from_numpy(array).to(model.device) for array in (history, mask))
            states = model.scoring_state(model.encoder(read, there), read, there)
            for domain in np.unique(roots):
                rows = np.flatnonzero(roots == domain)
                first, end = corpus.item_starts[domain : domain + 2].tolist()
                scores = states[torch.from_numpy(rows)] @ vectors[first:end].T
                if bool(scores.isnan().any()):
                    raise ModelError("the network returned NaN; lower learning_rate or clip_norm")
                found = scores.topk(min(beams, end - first)).indices
                leaves[rows, : found.shape[1]] = first + found.cpu().numpy()
        return leaves

    return search
