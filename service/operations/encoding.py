"""Item contents to codes, in batches shared by all callers: check, compose the text, encode, tokenize.

The tokenize operation and raw items in histories share one queue. Knows nothing of the catalogue or HTTP.

Symbols: D embedding width, L levels, N experts chosen, K experts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.engine.engine import EncodesTexts, TokenizesItems
from service.errors import InvalidInput, below
from service.items import compose_text
from service.limits import MOST_MAGNITUDE, NO_DIRECTION, has_direction
from service.metrics import Metrics
from service.operations.batching import Batcher
from service.operations.queries import ItemInput
from service.operations.token_space import TokenSpace
from service.overload.throughput import Expected
from service.semantic_ids import IntArray

AT_ONCE_CHARACTERS = 1_000
"""Longest text whose tokens are counted on the event loop, in a third of a millisecond. Longer texts go to another
thread, at the cost of two thread switches."""


@dataclass(frozen=True, slots=True, eq=False)
class EncodeJob:
    """One item in the queue: its domain, and either its text with its number of tokens or its embedding, float32 [D],
    which counts as one token."""

    domain: str
    text: str | None
    embedding: NDArray[np.float32] | None
    tokens: int


@dataclass(frozen=True, slots=True, eq=False)
class EncodedItem:
    """Tokenizer output of one item: codes int32 [L], experts int32 [N], gate float32 [K], squared error."""

    codes: IntArray
    experts: IntArray
    gate: NDArray[np.float32]
    quantization_error: float


class Encoding:
    """Turns items into codes.

    Parameters
    ----------
    text_encoder, item_tokenizer : the networks
    batch_tokens : bound on a batch's padded tokens
    metrics : records how long the phases take
    token_space : records how well the items fit the codebooks
    """

    def __init__(
        self,
        text_encoder: EncodesTexts,
        item_tokenizer: TokenizesItems,
        batch_tokens: int,
        *,
        metrics: Metrics,
        token_space: TokenSpace,
    ) -> None:
        self._token_space = token_space
        self._text_encoder = text_encoder
        self._item_tokenizer = item_tokenizer
        self._metrics = metrics
        self.batcher: Batcher[EncodeJob, EncodedItem] = Batcher(
            "encode",
            self._run,
            budget=batch_tokens,
            size=lambda job: job.tokens,
            report=metrics.batch("encode"),
            tracing=metrics.tracing,
        )

    def expected(self, items: int) -> Expected:
        """Expected waiting and running time of this many items."""
        return self.batcher.expected(items)

    async def encode(self, items: Sequence[ItemInput], fields: Sequence[str]) -> list[EncodedItem]:
        """Encode items, batched with those of other callers.

        Parameters
        ----------
        fields : path of each item in the caller's data, for error messages

        Raises
        ------
        InvalidInput : an item has neither text nor embedding, or an embedding of the wrong width, with a number that
            is not finite or too large, or without a direction (all zeros)
        """
        found = await self.batcher.submit(await self._jobs(items, fields))
        if not found:
            return found
        errors = np.array([said.quantization_error for said in found], dtype=np.float64)
        self._token_space.incoming([item.domain for item in items], errors)
        return found

    async def _jobs(self, items: Sequence[ItemInput], fields: Sequence[str]) -> list[EncodeJob]:
        jobs: list[EncodeJob | None] = []
        texts: list[str] = []
        of_texts: list[str] = []
        for item, field in zip(items, fields, strict=True):
            if item.embedding is not None:
                jobs.append(EncodeJob(item.domain, None, self._checked(item.embedding, below(field, "embedding")), 1))
                continue
            text = compose_text(item.content)
            if not text:
                raise InvalidInput(
                    "needs a title, brand, categories or description with text, or an embedding", field or None
                )
            jobs.append(None)
            texts.append(text)
            of_texts.append(item.domain)
        counts = await self._count_tokens(texts) if texts else []
        texted = (EncodeJob(of, text, None, count) for of, text, count in zip(of_texts, texts, counts, strict=True))
        return [job if job is not None else next(texted) for job in jobs]

    async def _count_tokens(self, texts: Sequence[str]) -> list[int]:
        if sum(map(len, texts)) <= AT_ONCE_CHARACTERS:
            return self._text_encoder.count_tokens(texts)
        return await asyncio.to_thread(self._text_encoder.count_tokens, texts)

    def _checked(self, embedding: NDArray[np.float64], field: str) -> NDArray[np.float32]:
        width = self._item_tokenizer.width
        if embedding.shape != (width,):
            raise InvalidInput(f"has {embedding.size} numbers, but the bundle's embeddings have {width}", field)
        wrong = np.flatnonzero(~(np.abs(embedding) <= MOST_MAGNITUDE))
        if wrong.size:
            found = embedding[wrong[0]]
            raise InvalidInput(f"number {wrong[0]} is {found:g}, but must lie within +-{MOST_MAGNITUDE:g}", field)
        vector = embedding.astype(np.float32)
        if not has_direction(vector):
            raise InvalidInput(NO_DIRECTION, field)
        return vector

    def _run(self, jobs: Sequence[EncodeJob]) -> list[EncodedItem]:
        """Run one batch, on the batcher's thread."""
        vectors = np.empty((len(jobs), self._item_tokenizer.width), dtype=np.float32)
        rows, texts = [], []
        for row, job in enumerate(jobs):
            if job.embedding is not None:
                vectors[row] = job.embedding
            elif job.text is not None:
                rows.append(row)
                texts.append(job.text)
        if texts:
            with self._metrics.phase("text_encode"):
                vectors[rows] = self._text_encoder.encode(texts)
        with self._metrics.phase("tokenize"):
            found = self._item_tokenizer.tokenize(vectors, [job.domain for job in jobs])
        return [
            EncodedItem(found.codes[row], found.experts[row], found.gate[row], float(found.quantization_error[row]))
            for row in range(len(jobs))
        ]
