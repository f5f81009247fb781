"""Converts texts to unit vectors: tokenise, sort by length, batch by padded tokens, run, restore the order.

Independent of items: `service/items.py` composes an item's text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from service.engine.sessions import Runtime, Session, open_session
from service.engine.signature import Tensor
from service.errors import BundleError, InvalidInput, ModelError

INPUTS = (Tensor("input_ids", "int64", ("B", "S")), Tensor("attention_mask", "int64", ("B", "S")))
OUTPUTS = (Tensor("sentence_embedding", "float32", ("B", "D")),)
"""The signature of every text encoder, whatever its network."""

TOKEN_BUDGET = 512
"""Most padded tokens of one batch on a CPU: enough for efficient matrix products, and few enough that the texts of a
batch have similar lengths, so that there is little padding."""

FloatArray = NDArray[np.float32]


class TextEncoder:
    """A text encoder of a bundle.

    Parameters
    ----------
    session : a graph with the signature `INPUTS` -> `OUTPUTS`
    tokenizer : its tokenizer; padding and truncation stored in its file are overridden
    max_tokens : longer texts are truncated to this length, special tokens included
    token_budget : maximum padded tokens (rows x longest row) of one batch

    Attributes
    ----------
    width : D, width of the vectors
    """

    def __init__(
        self, session: Session, tokenizer: Tokenizer, max_tokens: int, token_budget: int = TOKEN_BUDGET
    ) -> None:
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_tokens)
        self._session = session
        self._tokenizer = tokenizer
        self._token_budget = token_budget
        self.max_tokens = max_tokens
        self.width = session.size("D")

    @classmethod
    def open(
        cls,
        model: Path,
        tokenizer: Path,
        max_tokens: int,
        runtime: Runtime | None = None,
        token_budget: int = TOKEN_BUDGET,
    ) -> TextEncoder:
        """Open `text_encoder.onnx` and `tokenizer.json`.

        Raises
        ------
        BundleError : a file is missing, unreadable or has another signature
        ProviderUnavailable : the runtime's provider is not available
        """
        if not tokenizer.is_file():
            raise BundleError(f"{tokenizer}: no such file")
        try:
            loaded = Tokenizer.from_file(str(tokenizer))
        except Exception as error:
            # The library raises plain Exception for every defect of the file.
            raise BundleError(f"{tokenizer}: not a tokenizer file of the library 'tokenizers': {error}") from error
        return cls(open_session(model, runtime or Runtime(), INPUTS, OUTPUTS), loaded, max_tokens, token_budget)

    def encode(self, texts: Sequence[str], advance: Callable[[int], None] | None = None) -> FloatArray:
        """Encode texts; a text's vector does not depend on the others (within float32 rounding).

        Parameters
        ----------
        texts : B texts
        advance : called after each batch with the number of its texts

        Returns
        -------
        float32 [B, D], rows of unit length, in the order of `texts`

        Raises
        ------
        InvalidInput : a text cannot be encoded as UTF-8 (a lone surrogate), or has no token
        ModelError : the graph returned NaN or infinity
        """
        tokens = self._tokens(texts)
        vectors = np.empty((len(tokens), self.width), dtype=np.float32)
        for rows in self._batches([len(row) for row in tokens]):
            vectors[rows] = self._run([tokens[row] for row in rows])
            if advance is not None:
                advance(len(rows))
        broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if broken.size:
            raise ModelError(f"{self._session.path}: sentence_embedding of text {broken[0]} is not finite")
        return vectors

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each text, after truncation and with special tokens: its cost."""
        return [len(row) for row in self._tokens(texts)]

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, truncated to `max_tokens`."""
        try:
            encodings = self._tokenizer.encode_batch_fast(list(texts))
        except TypeError:
            raise InvalidInput(_unusable(texts)) from None
        rows: list[list[int]] = [encoding.ids for encoding in encodings]
        for row, ids in enumerate(rows):
            if not ids:
                raise InvalidInput(f"text {row}: {texts[row]!r} gives no token, so it has no embedding")
        return rows

    def _batches(self, lengths: Sequence[int]) -> Iterator[NDArray[np.intp]]:
        """Row numbers of each batch, longest rows first; a batch's padded tokens stay within the budget.

        A single row longer than the budget is a batch of its own.
        """
        order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
        start = 0
        while start < len(order):
            size = max(1, self._token_budget // lengths[order[start]])
            yield order[start : start + size]
            start += size

    def _run(self, rows: Sequence[Sequence[int]]) -> FloatArray:
        """Pad the rows of one batch to the longest and run the graph."""
        longest = max(len(row) for row in rows)
        input_ids = np.zeros((len(rows), longest), dtype=np.int64)
        attention_mask = np.zeros((len(rows), longest), dtype=np.int64)
        for at, row in enumerate(rows):
            input_ids[at, : len(row)] = row
            attention_mask[at, : len(row)] = 1
        vectors: FloatArray = self._session.run({"input_ids": input_ids, "attention_mask": attention_mask})[
            "sentence_embedding"
        ]
        if vectors.shape != (len(rows), self.width):
            raise ModelError(
                f"{self._session.path}: sentence_embedding has shape {list(vectors.shape)}, "
                f"but must have {[len(rows), self.width]}"
            )
        return vectors


def _unusable(texts: Sequence[str]) -> str:
    """Error message that names the text the tokenizer refused; its own message does not."""
    for row, text in enumerate(texts):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            return f"text {row}: character {error.start} is half a surrogate pair, but a text must be valid Unicode"
        except AttributeError:
            return f"text {row}: is of type {type(text).__name__}, but must be str"
    return "the tokenizer refused the texts"
