"""An engine without networks, so that the real app can be tested over HTTP in every corner, slow and failing ones too.

Texts are hashed, codes are read off the vector, and the search ranks every allowed leaf by a hash of its tokens.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.files import Bundle
from service.bundle.manifest import SCHEMA_VERSION, Manifest, RecommenderPart
from service.engine.engine import Engine
from service.engine.recommender import BeamResult
from service.engine.tokenized_items import TokenizedItems
from service.errors import ModelError
from service.index.trie import TrieArrays
from service.semantic_ids import TokenLayout

WIDTH = 4
POISON = "poison"


class DummyTextEncoder:
    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.go_on.set()
        self.entered = threading.Event()
        self.batches: list[list[str]] = []

    def hold(self) -> None:
        """Whoever encodes from now on waits until `go_on` is set; `entered` is set once somebody does."""
        self.entered.clear()
        self.go_on.clear()

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) + 2 for text in texts]

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.batches.append(list(texts))
        self.entered.set()
        assert self.go_on.wait(20)
        if any(POISON in text for text in texts):
            raise ModelError("a network returned NaN")
        rows = [list(hashlib.sha256(text.encode()).digest()[:WIDTH]) for text in texts]
        return np.asarray(rows, dtype=np.float32) / 256


class DummyItemTokenizer:
    width = WIDTH

    def __init__(self, layout: TokenLayout) -> None:
        self._layout = layout

    def tokenize(self, embeddings: NDArray[np.float32], domains: Sequence[str] = ()) -> TokenizedItems:
        scaled = np.abs(embeddings) % 1
        codes = (scaled[:, : self._layout.levels] * self._layout.codes).astype(np.int32)
        expert = (scaled[:, :1] * self._layout.experts).astype(np.int32)
        gate = np.eye(self._layout.experts, dtype=np.float32)[expert[:, 0]]
        return TokenizedItems(codes, expert, gate, scaled.sum(axis=1), scaled)


class DummyRecommender:
    def __init__(self, part: RecommenderPart, layout: TokenLayout) -> None:
        self.part = part
        self.layout = layout
        self.histories: list[NDArray[np.int64]] = []

    def search(
        self,
        *,
        history: NDArray[np.int64],
        history_mask: NDArray[np.int64],
        index: TrieArrays,
        roots: NDArray[np.int32],
        blocked: NDArray[np.int32],
        beams: int,
    ) -> BeamResult:
        batch, depth = len(history), self.layout.depth
        self.histories += [row[mask == 1] for row, mask in zip(history, history_mask, strict=True)]
        tokens = np.zeros((batch, beams, depth), dtype=np.int32)
        log_prob = np.full((batch, beams), -np.inf, dtype=np.float32)
        leaf = np.full((batch, beams), -1, dtype=np.int32)
        levels = np.full((batch, beams, depth), -np.inf, dtype=np.float32)
        for row in range(batch):
            found = [
                (score(path), path, child)
                for root in roots[row]
                if root >= 0
                for path, child in leaves(index, int(root), set(blocked[row].tolist()), depth)
            ]
            for rank, (log, path, child) in enumerate(sorted(found, reverse=True)[:beams]):
                tokens[row, rank], log_prob[row, rank], leaf[row, rank] = path, log, child
                levels[row, rank] = log * np.arange(1, depth + 1) / np.arange(1, depth + 1).sum()
        return BeamResult(tokens, log_prob, leaf, levels)


def score(path: Sequence[int]) -> float:
    return -1 - int.from_bytes(hashlib.sha256(repr(list(path)).encode()).digest()[:3], "big") / 2**20


def leaves(index: TrieArrays, node: int, blocked: set[int], depth: int) -> Iterator[tuple[tuple[int, ...], int]]:
    start = int(index.node_start[node])
    for edge in range(start, start + int(index.node_count[node])):
        if edge in blocked:
            continue
        token, child = int(index.edge_token[edge]), int(index.edge_child[edge])
        if depth == 1:
            yield (token,), child
        else:
            for path, leaf in leaves(index, child, blocked, depth - 1):
                yield (token, *path), leaf


ONE_FOR_ALL = ({"name": "all", "domains": [], "domain_tokens": []},)


def dummy_manifest(recommenders: Sequence[dict[str, Any]]) -> Manifest:
    sha = "0" * 64
    values: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "name": "dummy",
        "generation": 3,
        "created": "2026-01-01T00:00:00Z",
        "description": "no networks",
        "layout": {"levels": 3, "codes": 8, "experts": 2, "experts_per_item": 1, "suffixes": 4},
        "text_encoder": {"max_tokens": 16, "recipe": "title-brand-categories-description600", "source": "hash"},
        "item_tokenizer": {"embedding_width": WIDTH, "latent_width": WIDTH, "expert_names": ["films", "games"]},
        "recommenders": [{"model": "recommender.onnx", "max_history": 5, **part} for part in recommenders],
        "catalogue": {"items": 0},
        "files": dict.fromkeys(
            (
                "text_encoder.onnx",
                "tokenizer.json",
                "item_tokenizer.onnx",
                "recommender.onnx",
                "catalogue/items.parquet",
            ),
            sha,
        ),
    }
    return Manifest.model_validate(values)


class DummyEngine(Engine):
    """The real engine over parts without networks."""

    text_encoder: DummyTextEncoder
    recommenders: tuple[DummyRecommender, ...]

    def __init__(self, recommenders: Sequence[dict[str, Any]] = ONE_FOR_ALL) -> None:
        manifest = dummy_manifest(recommenders)
        parts = [DummyRecommender(part, manifest.token_layout(part)) for part in manifest.recommenders]
        tokenizer = DummyItemTokenizer(parts[0].layout)
        super().__init__(Bundle(Path("dummy"), manifest), DummyTextEncoder(), tokenizer, parts)
