"""Texts to semantic IDs within the process: the static encoder, int8, and whether an ID depends on anything else.

The bundle is that of `text_bundle.py`. Symbols: n texts, D embedding width, L levels, N experts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.quantizing import quantized
from benchmarks.rows import Row, medians
from benchmarks.text_bundle import MAX_TOKENS, text_bundle
from service.bundle.files import Bundle
from service.engine.engine import Engine
from service.engine.item_tokenizer import ItemTokenizer
from service.engine.sessions import Runtime
from service.engine.text_encoder import TOKEN_BUDGET, TextEncoder
from service.engine.tokenized_items import TokenizedItems
from service.errors import ModelError
from service.items import compose_texts
from training.export.item_tokenizer import prove_tie
from training.networks.tokenized import TokenizerNetwork
from training.tokenizer.kinds import load_tokenizer

STATIC_RATE = 10_000
INT8_UNCHANGED = 0.999
RIDGE = 1e-3

FloatArray = NDArray[np.float32]


def agreement(one: TokenizedItems, other: TokenizedItems) -> list[float]:
    """Share of items whose experts agree, and whose codes do too up to each level: the last is that of whole IDs."""
    same = (one.experts == other.experts).all(axis=1, keepdims=True)
    levels = np.logical_and.accumulate(np.hstack([same, one.codes == other.codes]), axis=1)
    return [float(share) for share in levels.mean(axis=0)]


def static(bundle: Path = Path("models/sample"), repeats: int = 3) -> Iterator[Row]:
    """The sample's static encoder: its rate with the tokenizer, and how far its IDs are those of its teacher.

    A linear map, learned on half of the films, brings its vectors into the teacher's space; the other half is compared.
    """
    sample, made = Engine.open(Bundle.open(bundle)), text_bundle()
    teacher, texts = Engine.open(Bundle.open(made.folder)), compose_texts(made.films)
    (taken,) = medians(repeats, lambda: sample.item_tokenizer.tokenize(sample.text_encoder.encode(texts)))
    note = f"{len(texts):,} film texts, {np.mean(sample.text_encoder.count_tokens(texts)):.0f} tokens each"
    yield Row("text to ID, static encoder", len(texts) / taken, "items/s", note=note, goal=STATIC_RATE)
    short, full = sample.text_encoder.encode(texts), teacher.text_encoder.encode(texts)
    half = len(texts) // 2
    learned, unseen = _with_one(short[:half]), _with_one(short[half:])
    weights = np.linalg.solve(learned.T @ learned + RIDGE * np.eye(learned.shape[1]), learned.T @ full[:half])
    mapped = (unseen @ weights).astype(np.float32)
    mapped /= np.linalg.norm(mapped, axis=1, keepdims=True)
    tokenizer = teacher.item_tokenizer
    shares = agreement(tokenizer.tokenize(mapped), tokenizer.tokenize(full[half:]))
    for level, share in enumerate(shares[1:], start=1):
        note = "all-MiniLM-L6-v2, through a linear map learned on other films"
        yield Row(f"static encoder: same expert and codes to level {level}", share, "share", note=note)


def int8(items: int = 2000, repeats: int = 3) -> Iterator[Row]:
    """all-MiniLM-L6-v2 with int8 products: how much faster, and how many IDs stay."""
    made = text_bundle()
    engine, texts = Engine.open(Bundle.open(made.folder)), compose_texts(made.films[:items])
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / "text_encoder.onnx"
        copy.write_bytes((made.folder / "text_encoder.onnx").read_bytes())
        rounded = TextEncoder.open(quantized(copy), made.folder / "tokenizer.json", MAX_TOKENS)
    ours, exact = (
        len(texts) / each
        for each in medians(repeats, *(partial(each.encode, texts) for each in (rounded, engine.text_encoder)))
    )
    yield Row("text to vector, int8", ours, "items/s", exact, "float32")
    found, expected = (engine.item_tokenizer.tokenize(each.encode(texts)) for each in (rounded, engine.text_encoder))
    shares = agreement(found, expected)
    note = f"of {len(texts):,} films; by level: {', '.join(f'{share:.3f}' for share in shares[1:])}"
    yield Row("int8 text encoder: IDs unchanged", shares[-1], "share", note=note, goal=INT8_UNCHANGED)


def same_ids(items: int = 2000) -> Iterator[Row]:
    """The IDs of the same texts in other batches, with other padding and other threads; ties apart."""
    made = text_bundle()
    bundle, texts = Bundle.open(made.folder), compose_texts(made.films[:items])
    part = bundle.manifest.item_tokenizer
    cores = Runtime("cpu", 0)

    def vectors(budget: int, runtime: Runtime = cores, size: int | None = None) -> FloatArray:
        paths = made.folder / "text_encoder.onnx", made.folder / "tokenizer.json"
        encoder = TextEncoder.open(*paths, MAX_TOKENS, runtime, budget)
        step = size or len(texts)
        return np.concatenate([encoder.encode(texts[at : at + step]) for at in range(0, len(texts), step)])

    def ids(embeddings: FloatArray, runtime: Runtime = cores, size: int | None = None) -> TokenizedItems:
        tokenizer = ItemTokenizer.open(bundle.path(part.model), part, runtime)
        step = size or len(embeddings)
        parts = [tokenizer.tokenize(embeddings[at : at + step]) for at in range(0, len(embeddings), step)]
        return TokenizedItems(
            **{name: np.concatenate([getattr(each, name) for each in parts]) for name in TokenizedItems.__slots__}
        )

    one, two = Runtime("cpu", 1), Runtime("cpu", 2)
    network = load_tokenizer(made.tokenizer).network
    expected = ids(vectors(TOKEN_BUDGET))
    others = {
        "one text at a time": ids(vectors(1), size=1),
        "batches of 7": ids(vectors(TOKEN_BUDGET, size=7), size=7),
        "padded to the longest": ids(vectors(len(texts) * MAX_TOKENS)),
        "one thread": ids(vectors(TOKEN_BUDGET, one), one),
        "two threads": ids(vectors(TOKEN_BUDGET, two), two),
    }
    for name, found in others.items():
        same = (expected.experts == found.experts).all(axis=1) & (expected.codes == found.codes).all(axis=1)
        differing = np.flatnonzero(~same)
        unproven = sum(not _tie(network, expected, found, int(row)) for row in differing)
        note = f"of {len(texts):,}; {len(differing) - unproven} more differ by a tie"
        yield Row(f"IDs that differ: {name}", unproven, "count", note=note, goal=0)


def _tie(network: TokenizerNetwork, expected: TokenizedItems, found: TokenizedItems, row: int) -> bool:
    """Whether the first choice that differs was between candidates of equal score."""
    try:
        prove_tie(network, expected, found, row)
    except ModelError:
        return False
    return True


def _with_one(vectors: FloatArray) -> NDArray[np.float64]:
    """float32 [n, D] -> float64 [n, D + 1], the last column 1."""
    return np.hstack([vectors, np.ones((len(vectors), 1))])
