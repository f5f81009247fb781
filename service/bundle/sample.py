"""`verification.npz`: inputs with the answers that were proven when the bundle was exported.

With it `unitok verify` repeats the proof without the networks that the bundle was made from. Plain arrays, no pickle.
Knows nothing of ONNX.

Symbols: H stored searches, S longest history, W beams, depth = L + N + 1, n stored items, m stored texts.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import BundleError
from service.semantic_ids import IntArray

SAMPLE = "verification.npz"


@dataclass(frozen=True)
class ProvenSample:
    """Inputs and their proven answers.

    Attributes
    ----------
    text_row : int64 [m], rows of the bundle's catalogue; their text here is the title, or the item id without one
    text_vector : float32 [m, D]
    embedding : float32 [n, D]
    codes, experts : int32 [n, L], [n, N]
    recommender, domain : str [H], which recommender answered, over which domain's whole catalogue
    history, history_mask : int64 [H, S]
    tokens : int32 [H, W, depth]
    log_prob : float32 [H, W], -inf where fewer than W items exist
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

    def save(self, folder: Path) -> None:
        """Write the file into a bundle's folder."""
        arrays: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        np.savez_compressed(folder / SAMPLE, **arrays)

    @classmethod
    def load(cls, path: Path) -> ProvenSample:
        """Read the file.

        Raises
        ------
        BundleError : it is not such a file, or an array is missing
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(**{each.name: arrays[each.name] for each in fields(cls)})
        except (OSError, ValueError, KeyError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
            # An archive can be broken in each of its layers: zip, deflate, and the head of an array.
            raise BundleError(f"{path}: not a file of proven samples: {error}") from error
