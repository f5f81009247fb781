"""`verification.npz`: sample inputs with the outputs that were proven at export.

`unitok verify` uses it to repeat the proof without the original networks. Plain arrays, no pickle. Independent of ONNX.

Symbols: H stored searches, S longest history, W beams, depth = L + N + 1, n stored items, m stored texts.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import BundleError
from service.semantic_ids import IntArray

SAMPLE = "verification.npz"
TOLERANCE = "tolerance"
"""This array is missing in bundles from before half precision, whose lists are all exact."""

ARRAYS: dict[str, tuple[type[np.generic], tuple[str, ...]]] = {
    "text_row": (np.int64, ("m",)),
    "text_vector": (np.float32, ("m", "D")),
    "embedding": (np.float32, ("n", "D")),
    "codes": (np.int32, ("n", "L")),
    "experts": (np.int32, ("n", "N")),
    "recommender": (np.str_, ("H",)),
    "domain": (np.str_, ("H",)),
    "history": (np.int64, ("H", "S")),
    "history_mask": (np.int64, ("H", "S")),
    "tokens": (np.int32, ("H", "W", "depth")),
    "log_prob": (np.float32, ("H", "W")),
    "tolerance": (np.float32, ("H",)),
}
"""Type and shape of each array; a symbol has the same size everywhere, and only N may be 0."""


@dataclass(frozen=True)
class ProvenSample:
    """Inputs and their proven answers.

    Attributes
    ----------
    text_row : int64 [m], rows of the bundle's catalogue; the text of a row is its title, or its item id if it has none
    text_vector : float32 [m, D]
    embedding : float32 [n, D]
    codes, experts : int32 [n, L], [n, N]
    recommender, domain : str [H], the recommender that answered, and the domain whose whole catalogue it searched
    history, history_mask : int64 [H, S]
    tokens : int32 [H, W, depth]
    log_prob : float32 [H, W], -inf where fewer than W items exist
    tolerance : float32 [H], largest allowed difference of a score if the graph computes in half precision; 0 if the
        list is exact
    """

    text_row: NDArray[np.int64]
    text_vector: NDArray[np.float32]
    embedding: NDArray[np.float32]
    codes: IntArray
    experts: IntArray
    recommender: NDArray[np.str_]
    domain: NDArray[np.str_]
    history: NDArray[np.int64]
    history_mask: NDArray[np.int64]
    tokens: IntArray
    log_prob: NDArray[np.float32]
    tolerance: NDArray[np.float32]

    def save(self, folder: Path) -> None:
        """Write the file into a bundle's folder."""
        arrays: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        np.savez_compressed(folder / SAMPLE, **arrays)

    @classmethod
    def load(cls, path: Path, sizes: Mapping[str, int] | None = None) -> ProvenSample:
        """Read the file.

        Parameters
        ----------
        sizes : known sizes of the bundle, by the symbols of `ARRAYS`

        Raises
        ------
        BundleError : not such a file, or an array is missing or has another type or shape; the message names it
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                names = [each.name for each in fields(cls) if each.name != TOLERANCE or TOLERANCE in arrays]
                found = {name: arrays[name] for name in names}
            found.setdefault(TOLERANCE, np.zeros(found["recommender"].shape, dtype=np.float32))
            sample = cls(**found)
        except (OSError, ValueError, KeyError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
            # Each layer of an archive can be broken: zip, deflate, and the header of an array.
            raise BundleError(f"{path}: not a file of proven samples: {error}") from error
        _require_shapes(path, sample, dict(sizes or {}))
        return sample


def _require_shapes(path: Path, sample: ProvenSample, sizes: dict[str, int]) -> None:
    """Compare every array with `ARRAYS`; an unknown size is taken from the first array that has its symbol."""
    for name, (dtype, symbols) in ARRAYS.items():
        array = getattr(sample, name)
        if not np.issubdtype(array.dtype, dtype) or array.ndim != len(symbols):
            raise BundleError(
                f"{path}: {name} is {array.dtype} {list(array.shape)}, but must be {dtype.__name__} "
                f"[{', '.join(symbols)}]"
            )
        for symbol, size in zip(symbols, array.shape, strict=True):
            if size == 0 and symbol != "N":
                raise BundleError(f"{path}: {name} has {symbol} = 0, so nothing was proven, but must have at least 1")
            if size != sizes.setdefault(symbol, size):
                raise BundleError(f"{path}: {name} has {symbol} = {size}, but must have {sizes[symbol]}")
