"""Alignment: maps embeddings of domains that the tokenizer was not trained on into the region of its codes.

There is one affine map per domain. It is fitted once from the domain's catalogue (`training/tokenizer/alignment.py`)
and kept as long as its semantic IDs, so an item's ID depends on its content alone. Stored as plain arrays, no pickle.
Independent of graphs.

Symbols: B batch, D embedding width, m domains.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.errors import BundleError

FILE = "alignments.npz"

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Alignment:
    """x -> x `matrix` + `offset`, float32 [D, D] and [D], normalised to unit length."""

    matrix: FloatArray
    offset: FloatArray

    def __call__(self, embeddings: FloatArray) -> FloatArray:
        """Embeddings [B, D], aligned."""
        moved: FloatArray = embeddings @ self.matrix + self.offset
        length = np.linalg.norm(moved, axis=1, keepdims=True)
        np.divide(moved, length, out=moved, where=length > 0)
        return moved


@dataclass(frozen=True, slots=True)
class Alignments:
    """Alignments by domain; embeddings of all other domains stay as they are."""

    by_domain: Mapping[str, Alignment] = field(default_factory=dict)

    def __call__(self, embeddings: FloatArray, domains: Sequence[str]) -> FloatArray:
        """Embeddings [B, D], aligned where the domain of the row has an alignment."""
        here = self.by_domain.keys() & set(domains)
        if not here:
            return embeddings
        of_row, aligned = np.asarray(domains), embeddings.copy()
        for domain in here:
            rows = of_row == domain
            aligned[rows] = self.by_domain[domain](embeddings[rows])
        return aligned

    def save(self, path: Path) -> None:
        """Write the alignments to a file; there must be at least one."""
        alignments = self.by_domain.values()
        with path.open("wb") as file:
            np.savez(
                file,
                domain=np.asarray(list(self.by_domain), dtype=np.str_),
                matrix=np.stack([alignment.matrix for alignment in alignments]),
                offset=np.stack([alignment.offset for alignment in alignments]),
            )

    @classmethod
    def load(cls, path: Path, width: int) -> Alignments:
        """Read what `save` wrote, for embeddings of this width.

        Raises
        ------
        BundleError : the file is missing or unreadable, or its arrays are not finite or not of this width
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise BundleError(f"{path}: cannot be read: {error}") from error
        count = len(arrays["domain"]) if "domain" in arrays and arrays["domain"].ndim == 1 else 0
        wanted = {"domain": (count,), "matrix": (count, width, width), "offset": (count, width)}
        found = {name: array.shape for name, array in arrays.items()}
        if found != wanted or arrays["domain"].dtype.kind != "U":
            raise BundleError(f"{path}: holds arrays {found}, but must hold {wanted}, names of domains first")
        for name in ("matrix", "offset"):
            if arrays[name].dtype != np.float32 or not np.isfinite(arrays[name]).all():
                raise BundleError(f"{path}: {name} must be finite float32")
        names = arrays["domain"].tolist()
        if len(set(names)) != len(names):
            raise BundleError(f"{path}: names a domain twice")
        return cls(
            {
                name: Alignment(matrix, offset)
                for name, matrix, offset in zip(names, arrays["matrix"], arrays["offset"], strict=True)
            }
        )
