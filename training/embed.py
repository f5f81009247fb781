"""The stage `embed`: one vector per item, computed from its text or read from files, in the order of the items.

Knows nothing of what the vectors are used for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.sessions import Runtime
from service.engine.text_encoder import TextEncoder
from service.errors import ConfigError, InvalidInput
from service.items import compose_texts, content_hash
from service.progress import progress
from training.data.dataset import Dataset, DomainData
from training.encoders.cache import VectorCache
from training.encoders.choose import prepare_encoder
from training.encoders.folder import EncoderCard, open_encoder
from training.encoders.vectors import digest_file, domain_vectors, items_digest, texts_digest, texts_file
from training.stage import Stage, replacing, write_atomically

ENCODER = "encoder"
CACHE = "cache.sqlite"
MAX_TOKENS = 128
CHUNK = 1024
"""Number of texts that are encoded and saved together; a kill loses at most this many."""

FloatArray = NDArray[np.float32]


@dataclass
class Counts:
    """Progress of a run.

    Attributes
    ----------
    items : items with a vector
    encoded : distinct texts that were encoded
    cached : distinct texts whose vectors were in the cache, counted per chunk
    encoding_seconds : time spent in the encoder
    """

    items: int = 0
    encoded: int = 0
    cached: int = 0
    encoding_seconds: float = 0.0


def embed_texts(
    dataset: Dataset,
    out: Path,
    encoder: str,
    *,
    max_tokens: int = MAX_TOKENS,
    cache: Path | None = None,
    runtime: Runtime | None = None,
) -> dict[str, Any]:
    """Encode the text of every item; small domains first.

    A text that occurs twice is encoded once. Vectors are saved to the cache chunk by chunk, so that a killed run
    resumes where it stopped.

    Parameters
    ----------
    dataset : written by `prepare`
    out : gets `<domain>.npy` float32 [n, D] in item rows, their digests, `encoder/` and `figures.json`
    encoder : see `training.encoders.choose.prepare_encoder`
    max_tokens : texts are truncated to this number of tokens
    cache : file of the vector cache; None: `out/cache.sqlite`
    runtime : device and number of threads of the encoder

    Returns
    -------
    the figures

    Raises
    ------
    InvalidInput : an item has no text
    ConfigError : the encoder or the cache cannot be used
    """
    stage = _begin(dataset, out)
    card = prepare_encoder(encoder, out / ENCODER, max_tokens)
    model = open_encoder(out / ENCODER, runtime)
    counts = Counts()
    smallest_first = sorted(dataset.summaries, key=lambda summary: summary.items)
    with (
        VectorCache(cache or out / CACHE, card.sha256, card.width) as known,
        progress("Embedding", sum(summary.items for summary in smallest_first)) as advance,
    ):
        for summary in smallest_first:
            data = dataset[summary.name]
            texts = _texts(data)
            write_atomically(texts_file(out / f"{data.name}.npy"), texts_digest(data) + "\n")
            chunks = (_chunk(texts[at : at + CHUNK], model, known, counts) for at in range(0, len(texts), CHUNK))
            _write(data, out, (len(texts), card.width), chunks, partial(advance, note=data.name))
            counts.items += len(texts)
    return stage.finish({**_described(dataset, card.width), "encoder": asdict(card), **_figures(counts)})


def embed_precomputed(
    dataset: Dataset, out: Path, vectors: Path, encoder: str | None = None, max_tokens: int = MAX_TOKENS
) -> dict[str, Any]:
    """Check and copy vectors computed elsewhere, of any width.

    Parameters
    ----------
    dataset : written by `prepare`
    out : gets `<domain>.npy` float32 [n, D] in item rows, their digests, and `figures.json`
    vectors : folder with `<domain>.npy` (rows as in `items.parquet`) or `<domain>.parquet` (`item_id`, `embedding`)
    encoder : the encoder of the vectors, needed if new items are to be tokenized from their text
    max_tokens : texts of new items are truncated to this number of tokens

    Raises
    ------
    InvalidInput : a file is missing or does not hold one finite vector for every item, all of the same width, and of
        the encoder's width if one is given
    ConfigError : the encoder cannot be used, or `vectors` is the output folder
    """
    if vectors.resolve() == out.resolve():
        raise ConfigError(f"{out}: vectors cannot be read from the folder they are written to")
    stage = _begin(dataset, out)
    width: int | None = None
    card: EncoderCard | None = None
    if encoder is not None:
        card = prepare_encoder(encoder, out / ENCODER, max_tokens)
        width = card.width
    with progress("Checking vectors", len(dataset)) as advance:
        for data in dataset:
            values = domain_vectors(vectors, data, width)
            width = values.shape[1]
            _write(data, out, values.shape, iter([values]), lambda rows: None)
            advance(1, data.name)
    described = _described(dataset, width or 0)
    return stage.finish({**described, "encoder": asdict(card) if card else None, "precomputed": True})


def _begin(dataset: Dataset, out: Path) -> Stage:
    """Start the stage and delete vectors of earlier runs, which may be of other items."""
    stage = Stage("embed", out)
    for name in dataset.domains:
        (out / f"{name}.npy").unlink(missing_ok=True)
        texts_file(out / f"{name}.npy").unlink(missing_ok=True)
    return stage


def _texts(data: DomainData) -> list[str]:
    """Text of every item of a domain."""
    texts = compose_texts(data.contents())
    empty = [row for row, text in enumerate(texts) if not text]
    if empty:
        raise InvalidInput(
            f"{data.name}: row {empty[0]} (item {data.item_ids[empty[0]]!r}) has no title, brand, category or "
            f"description, and so do {len(empty) - 1} more; leave them out with `prepare` or pass --precomputed vectors"
        )
    return texts


def _chunk(texts: Sequence[str], model: TextEncoder, known: VectorCache, counts: Counts) -> FloatArray:
    """Vectors of the texts, from the cache if possible: float32 [rows, D]."""
    hashes = [content_hash(text) for text in texts]
    distinct = dict(zip(hashes, texts, strict=True))
    vectors = known.get(list(distinct))
    missing = [key for key in distinct if key not in vectors]
    counts.cached += len(distinct) - len(missing)
    if missing:
        started = time.perf_counter()
        encoded = model.encode([distinct[key] for key in missing])
        counts.encoding_seconds += time.perf_counter() - started
        counts.encoded += len(missing)
        fresh = dict(zip(missing, encoded, strict=True))
        known.put(fresh)
        vectors |= fresh
    return np.stack([vectors[key] for key in hashes])


def _write(
    data: DomainData,
    out: Path,
    shape: tuple[int, ...],
    chunks: Iterator[FloatArray],
    written: Callable[[int], None],
) -> None:
    """Write chunks of rows into one `.npy` file, which appears when complete; only one chunk is held in memory."""
    path = out / f"{data.name}.npy"
    write_atomically(digest_file(path), items_digest(data.item_ids) + "\n")
    with replacing(path) as unfinished:
        rows = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.float32, shape=shape)
        start = 0
        for chunk in chunks:
            rows[start : start + len(chunk)] = chunk
            start += len(chunk)
            written(len(chunk))
        rows.flush()
        del rows


def _described(dataset: Dataset, width: int) -> dict[str, Any]:
    return {"width": width, "domains": {summary.name: summary.items for summary in dataset.summaries}}


def _figures(counts: Counts) -> dict[str, Any]:
    rate = counts.encoded / counts.encoding_seconds if counts.encoded else 0.0
    return {
        "items": counts.items,
        "texts_encoded": counts.encoded,
        "texts_from_cache": counts.cached,
        "texts_per_second": round(rate, 1),
    }
