"""Converts embeddings to codes and experts: check, align, batch, run.

Symbols: B batch, D embedding width, L levels, K experts, N experts chosen, d latent width. Independent of text, items
and suffixes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import ItemTokenizerPart
from service.engine.alignment import Alignments
from service.engine.sessions import Runtime, Session, open_session
from service.engine.signature import Tensor
from service.engine.tokenized_items import TokenizedItems
from service.errors import BundleError, InvalidInput, ModelError

INPUTS = (Tensor("embedding", "float32", ("B", "D")),)
OUTPUTS = (
    Tensor("codes", "int32", ("B", "L")),
    Tensor("experts", "int32", ("B", "N")),
    Tensor("gate", "float32", ("B", "K")),
    Tensor("quantization_error", "float32", ("B",)),
    Tensor("latent", "float32", ("B", "d")),
)
"""The signature of every item tokenizer."""

CHUNK = 1024
"""Most rows of one run: a larger batch is no faster and only uses more memory."""

FloatArray = NDArray[np.float32]


class ItemTokenizer:
    """The item tokenizer of a bundle.

    Parameters
    ----------
    session : a graph with the signature `INPUTS` -> `OUTPUTS`
    alignments : the alignments of domains that the tokenizer was not trained on

    Attributes
    ----------
    width : D, width of the embeddings it takes
    levels, experts_per_item, experts : L, N, K
    """

    def __init__(self, session: Session, alignments: Alignments) -> None:
        self._session = session
        self._alignments = alignments
        self.width = session.size("D")
        self.levels = session.size("L")
        self.experts_per_item = session.size("N")
        self.experts = session.size("K")

    @classmethod
    def open(cls, path: Path, part: ItemTokenizerPart, runtime: Runtime | None = None) -> ItemTokenizer:
        """Open `item_tokenizer.onnx`, and the alignments file beside it if the manifest names one.

        Raises
        ------
        BundleError : a file is missing or unreadable, has another signature, or differs from the manifest
        ProviderUnavailable : the runtime's provider is not available
        """
        session = open_session(path, runtime or Runtime(), INPUTS, OUTPUTS)
        said = {"D": part.embedding_width, "d": part.latent_width, "K": len(part.expert_names)}
        for symbol, size in said.items():
            if session.size(symbol) != size:
                raise BundleError(f"{path}: {symbol} is {session.size(symbol)}, but the manifest says {size}")
        return cls(
            session,
            Alignments.load(path.parent / part.alignments, part.embedding_width) if part.alignments else Alignments(),
        )

    def tokenize(self, embeddings: NDArray[Any], domains: Sequence[str] = ()) -> TokenizedItems:
        """Compute codes and experts of items; an item's result does not depend on the other items of the batch.

        Parameters
        ----------
        embeddings : float [B, D]
        domains : the domain of each item; if empty, the embeddings are used unchanged, as already aligned

        Raises
        ------
        InvalidInput : wrong width, wrong type, or a value that is not finite (the message names the row)
        ModelError : the graph returned a value that is not finite, a code below 0 or an expert out of range
        """
        rows = self._alignments(self._checked(embeddings), domains)
        starts = range(0, len(rows), CHUNK)
        parts = [self._run(rows[start : start + CHUNK]) for start in starts] or [self._nothing()]
        return TokenizedItems(
            **{name: np.concatenate([part[name] for part in parts]) for name in TokenizedItems.__slots__}
        )

    def _checked(self, embeddings: NDArray[Any]) -> FloatArray:
        array = np.asarray(embeddings)
        if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
            raise InvalidInput(
                f"embeddings have shape {list(array.shape)} and type {array.dtype}, "
                f"but must be floats [B, {self.width}]"
            )
        if array.shape[1] != self.width:
            raise InvalidInput(f"embeddings have {array.shape[1]} values, but this bundle's have {self.width}")
        with np.errstate(over="ignore"):
            rows = np.ascontiguousarray(array, dtype=np.float32)
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            raise InvalidInput(f"embedding {int(np.argmin(finite))} holds a value that is not a finite float32")
        return rows

    def _run(self, rows: FloatArray) -> dict[str, NDArray[Any]]:
        found = self._session.run({"embedding": rows})
        for name in ("gate", "quantization_error", "latent"):
            finite = np.isfinite(found[name].reshape(len(rows), -1)).all(axis=1)
            if not finite.all():
                raise ModelError(f"{self._session.path}: {name} of embedding {int(np.argmin(finite))} is not finite")
        experts = found["experts"]
        if (found["codes"] < 0).any() or (experts < 0).any() or (experts >= self.experts).any():
            raise ModelError(f"{self._session.path}: a code or an expert is out of range")
        return found

    def _nothing(self) -> dict[str, NDArray[Any]]:
        return {
            "codes": np.empty((0, self.levels), dtype=np.int32),
            "experts": np.empty((0, self.experts_per_item), dtype=np.int32),
            "gate": np.empty((0, self.experts), dtype=np.float32),
            "quantization_error": np.empty(0, dtype=np.float32),
            "latent": np.empty((0, self._session.size("d")), dtype=np.float32),
        }
